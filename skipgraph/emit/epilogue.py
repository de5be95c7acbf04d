"""The ends of an emitted file: how the model is built and loaded, and its example inputs."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterator, Mapping
from typing import Any

import torch
from torch import nn

from skipgraph.capture import Captured
from skipgraph.emit.layout import wrapped
from skipgraph.emit.literals import literal

_SMALL = 16  # values that are written out
SEPARATOR = "\0"

_LOAD = '''def load(path=None, device="cpu", strict=True):
    """Return the model with its weights: those beside this file, or those of a .safetensors file."""
    from safetensors.torch import load_file

    model = build()
    weights = load_file(path or Path(__file__).with_name("weights.safetensors"))
    {drop}model.load_state_dict(weights, strict=strict)
    return model.to(device)
'''


def epilogue(captured: Captured, inputs: Any, alias_of: Mapping[str, str]) -> str:
    """What stands in front of the classes, a separator, and what stands behind them."""
    head = '__all__ = ["Model", "build", "example_inputs", "load", "model"]'
    parts = [_structure(captured, alias_of), _build(captured), _load(captured), _examples(inputs), "model = build\n"]
    return f"{head}{SEPARATOR}" + "\n\n\n".join(part.rstrip() for part in parts) + "\n"


def _structure(captured: Captured, alias_of: Mapping[str, str]) -> str:
    lines = ["def _structure():", "    model = Model()"]
    for path, first in alias_of.items():
        lines.append(f"    model.set_submodule({literal(path)}, model.get_submodule({literal(first)}))")
    for name, first in _tied(captured):
        owner, _, attribute = name.rpartition(".")
        lines.append(f"    model.get_submodule({literal(owner)}).{attribute} = model.get_parameter({literal(first)})")
    lines += _dtypes(captured)
    images = [one for one in captured.parameters() if one.dim() == 4 and one.shape[1] > 1 and one[0, 0].numel() > 1]
    if images and all(one.is_contiguous(memory_format=torch.channels_last) for one in images):
        lines.append("    model.to(memory_format=torch.channels_last)")
    frozen = [name for name, one in captured.named_parameters() if not one.requires_grad]
    if frozen and len(frozen) == len(list(captured.named_parameters())):
        lines.append("    model.requires_grad_(False)")
    elif frozen:
        lines += [
            "    for name in (",
            *[f"        {literal(name)}," for name in frozen],
            "    ):",
            "        model.get_parameter(name).requires_grad_(False)",
        ]
    if len(lines) == 2:
        return f"{lines[0]}\n    return Model()"
    return "\n".join([*lines, "    return model"])


def _dtypes(captured: nn.Module) -> list[str]:
    """Set the dtype that most tensors have, then those of the others; tensors written out have theirs already."""
    tensors = {
        **dict(captured.named_parameters()),
        **{name: one for name, one in captured.named_buffers() if name in captured.state_dict()},
    }
    floats = {name: one.dtype for name, one in tensors.items() if one.is_floating_point()}
    counted = Counter(dtype for name, dtype in floats.items() if isinstance(tensors[name], nn.Parameter))
    usual = counted.most_common(1)[0][0] if counted else torch.float32
    lines = [] if usual == torch.float32 else [f"    model.to({usual})"]
    others: dict[torch.dtype, list[str]] = {}
    for name, dtype in floats.items():
        if dtype != usual:
            others.setdefault(dtype, []).append(name)
    for dtype, names in others.items():
        lines += ["    for name in (", *(f"        {literal(name)}," for name in names), "    ):"]
        lines += [
            '        owner, _, attribute = name.rpartition(".")',
            "        tensor = getattr(model.get_submodule(owner), attribute)",
            f"        tensor.data = tensor.data.to({dtype})",
        ]
    return lines


def _build(captured: Captured) -> str:
    lines = ["def build():", '    """Return the model, with weights drawn at random."""', "    model = _structure()"]
    large = False
    for name, tensor in constants(captured):
        if tensor.numel() <= _SMALL:
            owner, _, attribute = name.rpartition(".")
            place = f"model.get_submodule({literal(owner)})" if owner else "model"
            value = f"torch.tensor({literal(tensor.tolist())}, dtype={tensor.dtype})"
            lines.append(wrapped(f"    {place}.{attribute} = {value}"))
        else:
            large = True
    if large:
        lines += [
            "    from safetensors.torch import load_file",
            "",
            '    tables = load_file(Path(__file__).with_name("tables.safetensors"))',
            "    for name, table in tables.items():",
            '        owner, _, attribute = name.rpartition(".")',
            "        setattr(model.get_submodule(owner), attribute, table)",
        ]
    if len(lines) == 3:
        return "\n".join([*lines[:2], "    return _structure()"])
    return "\n".join([*lines, "    return model"])


def _load(captured: Captured) -> str:
    drop = ""
    ties = list(_tied(captured, buffers=True))
    for name, first in ties:
        drop += f"weights[{literal(name)}] = weights[{literal(first)}]\n    "
    return _LOAD.format(drop=drop)


def _examples(inputs: Any) -> str:
    args, kwargs = inputs
    lines = ["def example_inputs():", '    """Return inputs of the shapes that the model was captured with."""']
    if _has_floats(inputs):
        lines.append("    generator = torch.Generator().manual_seed(0)")
    value = _example(kwargs) if kwargs and not args else _example(tuple(args))
    return "\n".join([*lines, wrapped(f"    return {value}")])


def _has_floats(tree: Any) -> bool:
    if isinstance(tree, torch.Tensor):
        return tree.is_floating_point()
    values = tree.values() if isinstance(tree, dict) else tree if isinstance(tree, (list, tuple)) else ()
    return any(map(_has_floats, values))


def _example(tree: Any) -> str:
    if isinstance(tree, torch.Tensor):
        dtype = "" if tree.dtype == torch.float32 else f", dtype={tree.dtype}"
        if tree.is_floating_point():
            return f"torch.randn({literal(tuple(tree.shape))}, generator=generator{dtype})"
        return _example_numbers(tree)
    if isinstance(tree, dict):
        return "{" + ", ".join(f"{literal(key)}: {_example(one)}" for key, one in tree.items()) + "}"
    if isinstance(tree, tuple):
        inner = ", ".join(map(_example, tree))
        return f"({inner},)" if len(tree) == 1 else f"({inner})"
    if isinstance(tree, list):
        return "[" + ", ".join(map(_example, tree)) + "]"
    return literal(tree)


def _example_numbers(tensor: torch.Tensor) -> str:
    """Indices or a mask: the very ones if they are few or all the same, else zeros, which are valid everywhere."""
    shape = literal(tuple(tensor.shape))
    if tensor.device.type == "meta" or not tensor.numel():
        return f"torch.zeros({shape}, dtype={tensor.dtype})"
    first = tensor.flatten()[0]
    if bool((tensor == first).all()):
        return f"torch.full({shape}, {literal(first.item())}, dtype={tensor.dtype})"
    if tensor.numel() <= _SMALL:
        return f"torch.tensor({literal(tensor.tolist())}, dtype={tensor.dtype})"
    return f"torch.zeros({shape}, dtype={tensor.dtype})"


def constants(captured: nn.Module) -> Iterator[tuple[str, torch.Tensor]]:
    """Tensors that no state dict has, and the forward may read: non-persistent buffers and plain attributes."""
    for path, module in captured.named_modules():
        prefix = f"{path}." if path else ""
        for name in module._buffers:
            tensor = module._buffers[name]
            if tensor is not None and name in module._non_persistent_buffers_set:
                yield prefix + name, tensor
        for name, value in vars(module).items():
            if isinstance(value, torch.Tensor):
                yield prefix + name, value


def tables(captured: nn.Module) -> dict[str, torch.Tensor]:
    """Those of `constants` that are too large to be written out: the content of ``tables.safetensors``."""
    return {name: tensor for name, tensor in constants(captured) if tensor.numel() > _SMALL}


def _tied(captured: nn.Module, *, buffers: bool = False) -> Iterator[tuple[str, str]]:
    """Names of tensors that are others' too, with the first name; those of shared modules are none, unless asked."""
    first: dict[int, str] = {}
    named = captured.named_parameters(remove_duplicate=False)
    modules: set[int] = set()
    shared = {
        path
        for path, module in captured.named_modules(remove_duplicate=False)
        if id(module) in modules or modules.add(id(module))  # type: ignore[func-returns-value]
    }
    for name, tensor in named:
        if id(tensor) in first:
            if buffers or not any(name.startswith(path + ".") for path in shared):
                yield name, first[id(tensor)]
        else:
            first[id(tensor)] = name
    if buffers:
        seen: dict[int, str] = {}
        persistent = captured.state_dict()
        for name, buffer in captured.named_buffers(remove_duplicate=False):
            if name in persistent and id(buffer) in seen:
                yield name, seen[id(buffer)]
            seen.setdefault(id(buffer), name)

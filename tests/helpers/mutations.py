"""The laws of the algebra, each broken on purpose."""

from __future__ import annotations

from contextlib import AbstractContextManager
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING, Any, cast
from unittest import mock

import torch
from torch import Tensor, nn

from skipgraph.errors import NothingToRewriteError, VerificationError
from skipgraph.passes import ConcatToSum, SumToConcat, concat_steps, fx_edits, fx_products, surgery
from skipgraph.passes.forms import folded_bias, folded_weight, identity_kernel
from skipgraph.rewriting import Rewrite, rewrite
from tests.helpers.fixtures import load
from tests.helpers.tracing import Written

if TYPE_CHECKING:
    from collections.abc import Callable, Sequence

Patch = AbstractContextManager[Any]


class Used:
    """Whether what was broken was used, in a way that matters."""

    def __init__(self) -> None:
        self.once = False

    def __call__(self) -> None:
        self.once = True


# -- where the slices of tensors lie: both the tensors and the map of the state ----------------------------------------


def _piece(norms: bool, change: Callable[[Sequence[int], int], tuple[int, int] | None]) -> Callable[[Used], Patch]:
    """Pieces of norms, or of all other layers, moved: ``change`` makes a number and a shift of widths and a number."""

    def mutation(used: Used) -> Patch:
        genuine = surgery._piece

        def broken(old: str, new: str, tensor: Tensor, axis: int | None, number: int, widths: tuple[int, ...]) -> Any:
            changed = change(widths, number) if axis is not None and (tensor.dim() == 1) == norms else None
            if changed is None:
                return genuine(old, new, tensor, axis, number, widths)
            used()
            piece = genuine(old, new, tensor, axis, changed[0], widths)
            return replace(piece, start=piece.start + changed[1])

        return mock.patch.object(surgery, "_piece", broken)

    return mutation


def _swapped(widths: Sequence[int], number: int) -> tuple[int, int] | None:
    return (1 - number, 0) if number < 2 and widths[0] == widths[1] else None


def _early(widths: Sequence[int], number: int) -> tuple[int, int] | None:
    return (number, -1) if number and widths[number] > 1 else None


# -- laws 1 to 3 -------------------------------------------------------------------------------------------------------


def bias_for_nobody(used: Used) -> Patch:
    genuine = surgery._part

    def broken(module: nn.Module, cut: Any, number: int, widths: tuple[int, ...]) -> nn.Module:
        part = genuine(module, cut, number, widths)
        for name in cut.once:
            if part._parameters[name] is not None:
                used()
                part._parameters[name] = None
        return part

    return mock.patch.object(surgery, "_part", broken)


def bias_for_everybody(used: Used) -> Patch:
    genuine = surgery.Surgery.cut

    def broken(self: Any, path: str, cut: Any, widths: Sequence[int]) -> list[str]:
        module = self.model.get_submodule(path)
        if any(getattr(module, name, None) is not None for name in cut.once):
            used()
        return genuine(self, path, replace(cut, once=()), widths)

    return mock.patch.object(surgery.Surgery, "cut", broken)


def _edit(name: str, change: Callable[[Used, Any, list[str]], list[str]]) -> Callable[[Used], Patch]:
    """What an edit returns, changed."""

    def mutation(used: Used) -> Patch:
        genuine = getattr(fx_edits.FxEdits, name)

        def broken(self: Any, *args: Any) -> list[str]:
            return change(used, self, genuine(self, *args))

        return mock.patch.object(fx_edits.FxEdits, name, broken)

    return mutation


def _swap(used: Used, edits: Any, calls: list[str]) -> list[str]:
    # Once: swapped again by the next call, they would be right.
    if used.once or edits.shape(calls[0]) != edits.shape(calls[1]) or calls[0] == calls[1]:
        return calls
    used()
    return [calls[1], calls[0], *calls[2:]]


def _leave_out(used: Used, edits: Any, calls: list[str]) -> list[str]:
    used()
    edits.graph.erase_node(edits._nodes.pop(calls[-1]))
    edits.made = {node for node in edits.made if not node._erased}
    return calls[:-1]


def _repeat(used: Used, edits: Any, calls: list[str]) -> list[str]:
    used()
    return [*calls, calls[-1]]


def flattened_in_another_order(used: Used) -> Patch:
    def broken(edits: Any, outer: str, inner: str) -> None:
        operands: list[str] = []
        for joined in edits.operands(outer):
            within = edits.operands(inner) if joined == inner else [joined]
            operands += _swap(used, edits, within) if joined == inner else within
        edits.set_operands(outer, operands)

    return mock.patch.object(concat_steps, "flatten", broken)


# -- laws 4 and 5 ------------------------------------------------------------------------------------------------------


def shifted_identity(channels: int, kernel: list[int], like: Tensor) -> Tensor:
    """The identity, off by one tap."""
    weight = identity_kernel(channels, kernel, like)
    return torch.roll(weight, 1, -1) if kernel else weight


def weight_without_epsilon(weight: Tensor, norm: nn.Module) -> Tensor:
    """A batch norm folded without its epsilon."""
    return folded_weight(weight, norm) * torch.sqrt(
        (cast("Tensor", norm.running_var) + norm.eps) / norm.running_var
    ).reshape(  # type: ignore[operator]
        -1, *[1] * (weight.dim() - 1)
    )


def bias_of_wrong_sign(bias: Tensor | None, norm: nn.Module) -> Tensor:
    """A batch norm folded with its mean added."""
    return folded_bias(bias, norm) + 2 * folded_bias(torch.zeros_like(cast("Tensor", norm.running_mean)), norm) * -1


def _in_place_of(name: str, function: Callable[..., Tensor]) -> Callable[[Used], Patch]:
    def mutation(used: Used) -> Patch:
        genuine = fx_edits.merged

        def broken(captured: Any, graph: Any, *args: Any) -> Any:
            target = getattr(fx_products, name)
            made = genuine(captured, graph, *args)
            for node in graph.nodes:
                if node.target is target and (name != "identity_kernel" or any(size > 1 for size in node.args[1])):
                    used()
                    node.target = function
            return made

        return mock.patch.object(fx_edits, "merged", broken)

    return mutation


def shifted_zeros(used: Used) -> Patch:
    genuine = fx_products._margins

    def broken(module: nn.Module, window: Any) -> list[int]:
        margins = genuine(module, window)
        if any(margins):
            used()
            step = 1 if margins[1] else -1
            margins[:2] = margins[0] + step, margins[1] - step
        return margins

    return mock.patch.object(fx_products, "_margins", broken)


def _merged(change: Callable[[Used, Any], None]) -> Callable[[Used], Patch]:
    """The merged layer, changed."""

    def mutation(used: Used) -> Patch:
        genuine = fx_edits.merged

        def broken(*args: Any) -> Any:
            layer = genuine(*args)
            change(used, layer)
            return layer

        return mock.patch.object(fx_edits, "merged", broken)

    return mutation


def _other_order(used: Used, layer: Any) -> None:
    joined = layer.args[0]
    operands = joined.args[0]
    first, second = operands[0], operands[1]
    alike = all(weight.target is identity_kernel for weight in layer.args[1].args[0][:2])
    if not alike and first is not second and first.meta["shape"] == second.meta["shape"]:
        used()
        joined.args = ([second, first, *operands[2:]], *joined.args[1:])


def _no_bias(used: Used, layer: Any) -> None:
    if layer.args[2] is not None:
        used()
        layer.args = (*layer.args[:2], None, *layer.args[3:])


def _products(change: Callable[[Any], Any]) -> Callable[[Used], Patch]:
    def mutation(used: Used) -> Patch:
        genuine = fx_edits.merged

        def broken(captured: Any, graph: Any, products: Any, *args: Any) -> Any:
            used()
            return genuine(captured, graph, change(products), *args)

        return mock.patch.object(fx_edits, "merged", broken)

    return mutation


CONCATS: dict[str, Callable[[Used], Patch]] = {
    "1: operands swapped": flattened_in_another_order,
    "2: parts swapped": _edit("parts", _swap),
    "2: slices of norms swapped": _piece(True, _swapped),
    "2: slices of norms off by one": _piece(True, _early),
    "3: bias for nobody": bias_for_nobody,
    "3: bias for everybody": bias_for_everybody,
    "3: slices swapped": _piece(False, _swapped),
    "3: slices off by one": _piece(False, _early),
    "3: a term left out": _edit("summands", _leave_out),
    "3: a term added twice": _edit("summands", _repeat),
}
SUMS: dict[str, Callable[[Used], Patch]] = {
    "4: operands swapped": _merged(_other_order),
    "4: a term left out": _products(lambda products: products[:-1]),
    "4: a term added twice": _products(lambda products: [*products, products[-1]]),
    "4: bias dropped": _merged(_no_bias),
    "4: zeros shifted": shifted_zeros,
    "4: norm without epsilon": _in_place_of("folded_weight", weight_without_epsilon),
    "4: norm of wrong sign": _in_place_of("folded_bias", bias_of_wrong_sign),
    "5: identity off by one": _in_place_of("identity_kernel", shifted_identity),
}


@dataclass(frozen=True)
class Subject:
    """A fixture, freshly initialised, and how it is rewritten."""

    fixture: str
    rewrite: Rewrite = ConcatToSum()  # noqa: RUF009 - it is frozen
    only: tuple[str, ...] = ("*",)
    options: tuple[tuple[str, Any], ...] = ()
    size: int | None = None  # of smaller images than those of the fixture

    @property
    def mutations(self) -> dict[str, Callable[[Used], Patch]]:
        """The laws that its rewrite may use."""
        return CONCATS if isinstance(self.rewrite, ConcatToSum) else SUMS

    def run(self, *, verified: bool = True) -> None:
        """Rewrite it, and verify that.

        Raises
        ------
        VerificationError
            If it computes anything else.
        """
        torch.manual_seed(0)
        if self.fixture in HANDMADE:
            model: nn.Module = HANDMADE[self.fixture]()
            inputs: Any = (torch.rand(2, 4, 8, 8),)
        else:
            fixture = load(self.fixture)
            model, inputs = fixture.model_class(**dict(self.options)), fixture.example_inputs
        if self.size is not None:
            inputs = tuple(tensor[..., : self.size, : self.size] for tensor in cast("tuple[Tensor, ...]", inputs))
        rewrite(model, inputs, self.rewrite, only=self.only, execution="separate", verified=verified)

    def outcome(self, mutation: str) -> str:
        """``"caught"``, ``"MISSED"``, another error's words, or ``"-"`` if the law is not used."""
        used = Used()
        try:
            with self.mutations[mutation](used):
                self.run(verified=False)
                if not used.once:
                    return "-"
                used.once = False
                self.run()
        except VerificationError:
            return "caught"
        except NothingToRewriteError:
            return "-"
        except Exception as error:
            return f"{type(error).__name__}: {error}".splitlines()[0]
        return "MISSED"


def nested() -> nn.Module:
    """Concats in concats, of equal widths, with a norm behind them."""

    def forward(self: Any, x: Tensor) -> Tensor:
        inner = torch.cat([self.a(x), self.b(x)], 1)
        return self.last(torch.relu(self.norm(torch.cat([inner, self.c(inner)], 1))))  # type: ignore[no-any-return]

    members = {"a": nn.Conv2d(4, 4, 3, padding=1), "b": nn.Conv2d(4, 4, 1), "c": nn.Conv2d(8, 4, 1)}
    return Written(forward, norm=nn.BatchNorm2d(12), last=nn.Conv2d(12, 3, 3), **members)


def unlike() -> nn.Module:
    """A sum of a wide kernel, a narrow one with a norm, and a tensor as it is."""

    def forward(self: Any, x: Tensor) -> Tensor:
        y = torch.tanh(x)
        return torch.relu(self.a(x) + self.norm(self.b(y)) + y)

    members = {"a": nn.Conv2d(4, 4, 3, padding=1), "b": nn.Conv2d(4, 4, 1)}
    return Written(forward, norm=nn.BatchNorm2d(4), **members)


HANDMADE: dict[str, Callable[[], nn.Module]] = {"nested": nested, "unlike": unlike}

SUBJECTS = {
    "nested": Subject("nested"),
    "unlike": Subject("unlike", SumToConcat(eval_only=True)),
    "unet": Subject("unet", options=(("width", 8), ("levels", 2)), size=32),
    "densenet": Subject("densenet"),
    "uvit": Subject("uvit"),
    "dla": Subject("dla"),
    "csp": Subject("csp"),
    "aspp": Subject("aspp"),
    "inception": Subject("inception"),
    "unet_plus_plus": Subject("unet_plus_plus"),
    "fcn8s": Subject("fcn8s", SumToConcat()),
    "fpn": Subject("fpn", SumToConcat()),
    "unet_sum": Subject("unet_sum", SumToConcat(eval_only=True)),
    "wavenet": Subject("wavenet", SumToConcat()),
    "transformer_encoder": Subject("transformer_encoder", SumToConcat()),
    "resnet, eval only": Subject("resnet", SumToConcat(eval_only=True)),
    "resnet, identities": Subject("resnet", SumToConcat(allow_identity=True)),
}

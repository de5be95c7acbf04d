"""Which calls of modules are written as forwards of their own: the tree of regions of a graph."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field

from torch import fx, nn

from skipgraph.capture import Captured

Scope = tuple[tuple[str, int], ...]


@dataclass(slots=True, eq=False)
class Region:
    """One call of a module that is written as a forward of its own; ``path`` is empty for the model itself.

    Attributes
    ----------
    items : list
        Its own nodes and the regions inside it, in order of execution.
    inputs, outputs : list of fx.Node
        What it reads from outside, in order of first use, and what is read of it outside.
    """

    path: str
    items: list[fx.Node | Region] = field(default_factory=list)
    inputs: list[fx.Node] = field(default_factory=list)
    outputs: list[fx.Node] = field(default_factory=list)

    def nodes(self) -> Iterator[fx.Node]:
        """All nodes, those of inner regions included."""
        for item in self.items:
            if isinstance(item, Region):
                yield from item.nodes()
            else:
                yield item

    def regions(self) -> Iterator[Region]:
        """The region and all inside it."""
        yield self
        for item in self.items:
            if isinstance(item, Region):
                yield from item.regions()


def regions(graph: fx.Graph, dissolved: set[str]) -> Region:
    """The tree of regions, those of the modules in ``dissolved`` left out."""
    root = Region("")
    stack = [root]
    for node in graph.nodes:
        if node.op in ("placeholder", "output", "get_attr"):
            continue
        path = [one for one, _ in node.meta.get("scope", ()) if one not in dissolved]
        while len(stack) > 1 and stack[-1].path not in path:
            stack.pop()
        for one in path[path.index(stack[-1].path) + 1 if len(stack) > 1 else 0 :]:
            inner = Region(one)
            stack[-1].items.append(inner)
            stack.append(inner)
        stack[-1].items.append(node)
    for region in root.regions():
        _book(region)
    return root


def _book(region: Region) -> None:
    inside = dict.fromkeys(region.nodes())
    for node in inside:
        for read in node.all_input_nodes:
            if read not in inside and read.op != "get_attr" and read not in region.inputs:
                region.inputs.append(read)
    region.outputs = [node for node in inside if any(user not in inside for user in node.users)]


def to_dissolve(captured: Captured, graphs: Mapping[bool, fx.Graph], chosen: set[str]) -> set[str]:
    """Modules whose calls cannot be forwards of their own: called more than once, or not in one stretch.

    In the graphs of both modes a forward has the same inputs and outputs; one that has not is dissolved, too. Those in
    ``chosen`` are, whatever they are.
    """
    dissolved = set(chosen)
    while True:
        trees = {mode: regions(graph, dissolved) for mode, graph in graphs.items()}
        more: set[str] = set()
        signatures: dict[str, set[tuple[int, int]]] = {}
        for tree in trees.values():
            seen: set[str] = set()
            for region in tree.regions():
                if not region.path:
                    continue
                if region.path in seen or not _callable(captured, region):
                    more.add(region.path)
                seen.add(region.path)
                signatures.setdefault(region.path, set()).add((len(region.inputs), len(region.outputs)))
        more |= {path for path, found in signatures.items() if len(found) > 1}
        for path in signatures:
            if any(path not in {region.path for region in tree.regions()} for tree in trees.values()):
                more.add(path)
        if not more:
            return dissolved
        dissolved |= more


def _callable(captured: Captured, region: Region) -> bool:
    module = captured.get_submodule(region.path)
    if isinstance(module, (nn.ModuleList, nn.ModuleDict)) or not region.inputs or not region.outputs:
        return False
    # The forward may call what is inside it, and nothing else.
    paths = [str(node.target) for node in region.nodes() if node.op == "call_module"]
    paths += [str(read.target) for node in region.nodes() for read in node.all_input_nodes if read.op == "get_attr"]
    paths += [inner.path for inner in region.regions() if inner is not region]
    ours = all(path.startswith(region.path + ".") or path == "training" for path in paths)
    return ours and (not isinstance(module, nn.Sequential) or is_chain(region, module))


def is_chain(region: Region, module: nn.Module) -> bool:
    """Whether a region runs the children of a Sequential one after another, as it does itself."""
    children = list(module._modules)
    if len(region.items) != len(children) or len(region.inputs) != 1 or len(region.outputs) != 1:
        return False
    value = region.inputs[0]
    for item, name in zip(region.items, children, strict=True):
        path = f"{region.path}.{name}"
        if isinstance(item, Region):
            if item.path != path or item.inputs != [value] or len(item.outputs) != 1:
                return False
            value = item.outputs[0]
        elif item.op == "call_module" and str(item.target) == path and item.args == (value,) and not item.kwargs:
            value = item
        else:
            return False
    return region.outputs == [value]


def is_numbered(module: nn.Module | None) -> bool:
    """Whether a module is written as a list of its children: a ModuleList, or a Sequential without names."""
    if type(module) in (nn.ModuleList, nn.ParameterList):
        return True
    if not isinstance(module, nn.Sequential) or module._parameters or module._buffers:
        return False
    return list(module._modules) == [str(number) for number in range(len(module._modules))]

"""Which models a scan is of."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from fnmatch import fnmatchcase

from skipgraph.errors import NothingToRewriteError, SourceError


def listed(zoo: str) -> list[str]:
    """SPECs of all models that a source knows by name. It imports PyTorch, and the library.

    Raises
    ------
    SourceError
        If there is no such source, or it has no list.
    MissingDependencyError
        If the library is not installed.
    """
    from skipgraph.sources import kinds
    from skipgraph.sources.torchvision_operators import declare_missing

    known = {kind.name: kind.specs for kind in kinds() if kind.specs is not None}
    if zoo not in known:
        raise SourceError(f"there is no list of the models of {zoo!r}", f"Use one of: {', '.join(sorted(known))}.")
    declare_missing()
    return known[zoo]()


def read(text: str) -> list[str]:
    r"""SPECs from a text: one a line, without empty lines and those that start with ``#``.

    Examples
    --------
    >>> read("# baselines\ntimm:resnet18\n\n  unet.py:UNet(width=32)\n")
    ['timm:resnet18', 'unet.py:UNet(width=32)']
    """
    lines = [line.strip() for line in text.splitlines()]
    return [line for line in lines if line and not line.startswith("#")]


def chosen(specs: Iterable[str], only: Sequence[str] = (), skip: Sequence[str] = ()) -> list[str]:
    """Those SPECs, each once, that match one of ``only``, if there are any, and none of ``skip``.

    Patterns are those of a shell, and match the whole SPEC, or the whole of what follows its first colon.

    Raises
    ------
    NothingToRewriteError
        If a pattern matches none, or none is left.

    Examples
    --------
    >>> chosen(["timm:vgg11", "timm:vgg11_bn", "timm:resnet18"], ["vgg*"], ["*_bn"])
    ['timm:vgg11']
    """
    once = list(dict.fromkeys(specs))
    for pattern in (*only, *skip):
        if not any(_matches(pattern, spec) for spec in once):
            raise NothingToRewriteError(f"no model matches {pattern!r}", "See what there is by --list.")
    left = [
        spec
        for spec in once
        if (not only or any(_matches(pattern, spec) for pattern in only))
        and not any(_matches(pattern, spec) for pattern in skip)
    ]
    if once and not left:
        raise NothingToRewriteError("--only and --skip leave no model", "Leave one of them out.")
    return left


def _matches(pattern: str, spec: str) -> bool:
    return fnmatchcase(spec, pattern) or fnmatchcase(spec.partition(":")[2], pattern)

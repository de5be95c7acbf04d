"""What each call of a graph runs under: whether autograd is on, and which autocasts are open."""

from __future__ import annotations

from collections.abc import Hashable
from typing import Any, NamedTuple

import torch
from torch import fx

_GRADIENTS = torch._C._set_grad_enabled
_ENTER, _EXIT = torch.amp.autocast_mode._enter_autocast, torch.amp.autocast_mode._exit_autocast
SWITCHES = (_GRADIENTS, _ENTER, _EXIT)


class Context(NamedTuple):
    """Calls of one context may stand for one another; those of two differ in gradients or in precision.

    ``gradients`` is True, False, None (as at the call of the model), or what switched it otherwise.
    """

    gradients: Hashable = None
    autocasts: tuple[Hashable, ...] = ()


def contexts(graph: fx.Graph) -> dict[fx.Node, Context]:
    """The context of each call."""
    now = Context()
    found: dict[fx.Node, Context] = {}
    for node in graph.nodes:
        found[node] = now
        given: Any = node.args[0] if node.args else None
        if node.target is _GRADIENTS:
            asked = isinstance(given, fx.Node) and given.target is torch.is_grad_enabled
            now = now._replace(gradients=found[given].gradients if asked else given if given in (True, False) else node)
        elif node.target is _ENTER:
            now = now._replace(autocasts=(*now.autocasts, node))
        elif node.target is _EXIT:
            now = now._replace(autocasts=tuple(one for one in now.autocasts if one is not given))
    return found


def switches(graph: fx.Graph) -> bool:
    """Whether anything in a graph changes the context."""
    return any(node.target in SWITCHES for node in graph.nodes)

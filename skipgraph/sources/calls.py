"""``Name(width=32)`` in a SPEC: a name and arguments that are literals. Nothing of it is ever evaluated."""

from __future__ import annotations

import ast
import inspect
import re
from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Any

from skipgraph.errors import SourceError

_CALL = re.compile(r"(?P<name>[^()]+)(?P<arguments>\(.*\))?", re.DOTALL)


@dataclass(frozen=True, slots=True)
class NamedCall:
    """A name, with the arguments that stand behind it; ``written`` tells ``Net()`` from ``Net``."""

    name: str
    args: tuple[Any, ...] = ()
    kwargs: dict[str, Any] = field(default_factory=dict)
    written: bool = False

    def check_fits(self, function: Callable[..., Any], spec: str) -> None:
        """Raise a `SourceError` if ``function`` does not take these arguments."""
        try:
            signature = inspect.signature(function)
        except (TypeError, ValueError):
            return  # a builtin that does not tell: let the call itself speak
        try:
            signature.bind(*self.args, **self.kwargs)
        except TypeError as error:
            needed = ", ".join(
                f"{parameter.name}=…"
                for parameter in signature.parameters.values()
                if parameter.default is parameter.empty
                and parameter.kind not in (parameter.VAR_POSITIONAL, parameter.VAR_KEYWORD)
            )
            raise SourceError(
                f"{self.name}{signature} cannot be called with what {spec!r} gives it: {error}",
                f"Write the arguments behind the name: '{self.name}({needed})'.",
            ) from None


def parse_call(text: str) -> NamedCall:
    """Read ``name`` or ``name(literal, keyword=literal)``.

    Raises
    ------
    SourceError
        If it is neither, or an argument is no Python literal.
    """
    match = _CALL.fullmatch(text)
    if match is None:
        raise SourceError(f"{text!r} is neither a name nor a call", "Write it as Name or Name(width=32).")
    name, arguments = match["name"], match["arguments"]
    if arguments is None:
        return NamedCall(name)
    try:
        call = ast.parse(f"_{arguments}", mode="eval").body
        if not isinstance(call, ast.Call) or not isinstance(call.func, ast.Name):
            raise ValueError("not one call")
        args = tuple(ast.literal_eval(argument) for argument in call.args)
        if any(keyword.arg is None for keyword in call.keywords):
            raise ValueError("** is not allowed")
        kwargs = {str(keyword.arg): ast.literal_eval(keyword.value) for keyword in call.keywords}
    except (SyntaxError, ValueError) as error:
        reason = error.msg if isinstance(error, SyntaxError) else str(error)
        raise SourceError(
            f"the arguments in {text!r} cannot be read: {reason}",
            "They must be Python literals: numbers, strings, True, False, None, and tuples, lists or dicts of these.",
        ) from None
    return NamedCall(name, args, kwargs, written=True)

"""The numbers in a forward: where they stand, and what they are called when they become attributes."""

from __future__ import annotations

import re
from collections.abc import Callable, Sequence

_TOKEN = re.compile(
    r"""(?P<text>"(?:[^"\\]|\\.)*")|(?P<module>self(?:\.\w+|\[\d+\]|\["[^"]*"\])*)|(?P<word>\.?[A-Za-z_]\w*)"""
    r"""|(?P<number>\d+(?:\.\d+)?(?:e[+-]?\d+)?(?![\w.]))|(?P<mark>.)"""
)


def numbers(lines: Sequence[str]) -> list[tuple[str, str]]:
    """Every number in some statements, in order: what it could be called, and its text."""
    found: list[tuple[str, str]] = []
    for line in lines:
        _scan(line, lambda label, text: found.append((label, text)) or text)  # type: ignore[func-returns-value]
    return found


def replaced(lines: Sequence[str], texts: Sequence[str]) -> list[str]:
    """The statements with ``texts`` in the places of their numbers."""
    rest = iter(texts)
    return [_scan(line, lambda label, text: next(rest)) for line in lines]


def _scan(line: str, number: Callable[[str, str], str]) -> str:
    """The line with each number replaced; those in the path of a module and in texts are left alone."""
    parts: list[str] = []
    callers: list[str] = []  # of the brackets that are open
    word = keyword = ""
    for match in _TOKEN.finditer(line):
        text, kind = match.group(), match.lastgroup
        if kind == "number":
            parts.append(number(keyword or next((one for one in reversed(callers) if one), "number"), text))
            continue
        parts.append(text)
        if kind in ("word", "module"):
            word = text.rpartition(".")[2].strip("_[]0123456789")
        elif text in "([":
            callers.append(word if text == "(" else "index" if word else "")
            word = keyword = ""
        elif text in ")]":
            callers.pop()
            word = "index"
            keyword = ""
        elif text == "=":
            word, keyword = "", word if callers else ""
        elif text == ",":
            word = keyword = ""
        elif text != " ":
            word = ""
    return "".join(parts)

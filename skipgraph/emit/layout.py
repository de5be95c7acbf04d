"""Long lines broken as a formatter would."""

from __future__ import annotations

_WIDTH = 120
_PAIRS = {"(": ")", "[": "]", "{": "}"}


def wrapped(line: str) -> str:
    """A statement on one line, or with the inside of its last bracket on lines of its own.

    First the inside on one line, then an argument a line with a comma behind the last, as ``ruff format`` does.
    """
    if len(line) <= _WIDTH:
        return line
    indent = " " * (len(line) - len(line.lstrip()))
    start = _outermost(line)
    if start is None:
        return line
    opened, inside, closed = line[: start + 1], line[start + 1 : -1], line[-1]
    inner = f"{indent}    {inside}"
    if len(inner) <= _WIDTH:
        return f"{opened}\n{inner}\n{indent}{closed}"
    arguments = [wrapped(f"{indent}    {one},") for one in split_arguments(inside)]
    return "\n".join([opened, *arguments, indent + closed])


def _outermost(line: str) -> int | None:
    """Where the bracket opens that the line's last character closes."""
    trailing = line[:-1] if line.endswith(",") else line
    depth, quoted = 0, ""
    opened: list[int] = []
    for place, character in enumerate(trailing):
        if quoted:
            if character == quoted and trailing[place - 1] != "\\":
                quoted = ""
        elif character in "\"'":
            quoted = character
        elif character in _PAIRS:
            opened.append(place)
            depth += 1
        elif character in _PAIRS.values():
            start = opened.pop()
            if place == len(trailing) - 1 and trailing is line:
                return start
    return None


def split_arguments(text: str) -> list[str]:
    """What stands between the commas of an argument list, those inside brackets and strings apart."""
    found, depth, quoted, start = [], 0, "", 0
    for place, character in enumerate(text):
        if quoted:
            if character == quoted and text[place - 1] != "\\":
                quoted = ""
        elif character in "\"'":
            quoted = character
        elif character in _PAIRS:
            depth += 1
        elif character in _PAIRS.values():
            depth -= 1
        elif character == "," and not depth:
            found.append(text[start:place].strip())
            start = place + 1
    rest = text[start:].strip()
    return [*found, rest] if rest else found

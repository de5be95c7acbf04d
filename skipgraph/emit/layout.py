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
    comma = "," if line.endswith(",") else ""
    line = line.removesuffix(",")
    colon = ":" if line.endswith(":") else ""
    line = line.removesuffix(":")
    indent = " " * (len(line) - len(line.lstrip()))
    start = _outermost(line)
    if start is None:
        return line + colon + comma
    opened, inside, closed = line[: start + 1], line[start + 1 : -1], line[-1] + colon + comma
    arguments = split_arguments(inside)
    if not arguments:
        return line + colon + comma
    inner = f"{indent}    {inside}"
    if len(inner) <= _WIDTH and (len(arguments) > 1 or _outermost(inside) is None or colon):
        return f"{opened}\n{inner}\n{indent}{closed}"
    last = "" if len(arguments) == 1 else ","
    return "\n".join([opened, *(wrapped(f"{indent}    {one}{last}") for one in arguments), indent + closed])


def _outermost(line: str) -> int | None:
    """Where the bracket opens that the line's last character closes."""
    quoted = ""
    opened: list[int] = []
    for place, character in enumerate(line):
        if quoted:
            if character == quoted and line[place - 1] != "\\":
                quoted = ""
        elif character in "\"'":
            quoted = character
        elif character in _PAIRS:
            opened.append(place)
        elif character in _PAIRS.values():
            start = opened.pop()
            if place == len(line) - 1:
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

"""Long lines broken as a formatter would."""

from __future__ import annotations

import re
from collections.abc import Iterator

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


def spaced_slices(line: str) -> str:
    """A statement with spaces around the colons of slices whose ends are more than a name or a number."""
    result, start = "", 0
    for place, character in _outside_texts(line):
        if character != "[" or place < start:
            continue
        end = _closing(line, place)
        inside = line[place + 1 : end]
        if ":" in inside:
            keys = ", ".join(map(_spaced_slice, split_arguments(inside)))
            inside = keys + "," * inside.endswith(",")
        result += line[start : place + 1] + inside + "]"
        start = end + 1
    return result + line[start:]


def _spaced_slice(key: str) -> str:
    key = spaced_slices(key)
    depth, ends = 0, [""]
    for character in key:
        depth += (character in _PAIRS) - (character in _PAIRS.values())
        if character == ":" and not depth:
            ends.append("")
        else:
            ends[-1] += character
    if len(ends) == 1 or all(re.fullmatch(r"-?\w*", end) for end in ends):
        return key
    return re.sub(" +", " ", " : ".join(ends)).strip()


def _outside_texts(line: str) -> Iterator[tuple[int, str]]:
    """Places and characters outside of string literals."""
    quoted = ""
    for place, character in enumerate(line):
        if quoted:
            if character == quoted and line[place - 1] != "\\":
                quoted = ""
        elif character in "\"'":
            quoted = character
        else:
            yield place, character


def _closing(line: str, start: int) -> int:
    """Where the bracket at ``start`` closes."""
    depth = 0
    for place, character in _outside_texts(line):
        if place >= start:
            depth += (character in _PAIRS) - (character in _PAIRS.values())
            if not depth:
                return place
    return len(line)


def _outermost(line: str) -> int | None:
    """Where the bracket opens that the line's last character closes."""
    opened: list[int] = []
    for place, character in _outside_texts(line):
        if character in _PAIRS:
            opened.append(place)
        elif character in _PAIRS.values():
            start = opened.pop()
            if place == len(line) - 1:
                return start
    return None


def split_arguments(text: str) -> list[str]:
    """What stands between the commas of an argument list, those inside brackets and strings apart."""
    found, depth, start = [], 0, 0
    for place, character in _outside_texts(text):
        if character in _PAIRS:
            depth += 1
        elif character in _PAIRS.values():
            depth -= 1
        elif character == "," and not depth:
            found.append(text[start:place].strip())
            start = place + 1
    rest = text[start:].strip()
    return [*found, rest] if rest else found

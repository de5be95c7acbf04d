"""Names of variables in a forward."""

from __future__ import annotations

import builtins
import keyword
import re

from skipgraph.passes import forms

GENERIC = ("x", "y", "z", "u", "v", "w")
TAKEN = {"self", "torch", "nn", "F", "math", "operator", *dir(builtins), *keyword.kwlist, *vars(forms)}
HINTS = {"getitem": "part", "add": "total", "iadd": "total", "cat": "joined", "mul": "product", "unbind": "parts"}


def hint(path: str) -> str:
    """A name for what a module makes: the last word of its path, with the numbers behind it."""
    parts = path.split(".")
    while len(parts) > 1 and all(part.isdigit() for part in parts[-1:]) and not parts[0].isdigit():
        word = next((place for place in reversed(range(len(parts))) if not parts[place].isdigit()), 0)
        return cleaned("_".join(parts[word:]))
    return cleaned(parts[-1])


def cleaned(name: str) -> str:
    """An identifier that means nothing else."""
    name = re.sub(r"\W", "_", name).strip("_").lower() or "value"
    return f"{name}_" if name in TAKEN else name if not name[0].isdigit() else f"value_{name}"

"""The columns of the table, the same whatever becomes of a model."""

from __future__ import annotations

from dataclasses import dataclass

Row = dict[str, str | int | float | None]


@dataclass(frozen=True, slots=True)
class Column:
    """One column.

    Attributes
    ----------
    name : str
    kind : type
        ``str``, ``int`` or ``float``; any value but ``spec`` and ``status`` may be missing.
    unit : str
        Empty for words and plain counts.
    meaning : str
        What stands in it.
    """

    name: str
    kind: type
    unit: str
    meaning: str


COLUMNS = (
    Column("spec", str, "", "the SPEC, as it was given"),
    Column("status", str, "", "`priced` or `failed`; a model that failed has its reason and nothing else"),
    Column("reason", str, "", "why it failed"),
    Column("method", str, "", "what the forward ran on: `meta`, `fake` or `export`"),
    Column("opaque", int, "", "modules that could not be looked into"),
    Column("inputs", str, "", "as `--input` takes them, with blanks between"),
    Column("parameters", int, "", "numbers in all parameters"),
    Column("parameter_bytes", int, "bytes", "their size"),
    Column("flops", int, "multiply-adds", "of one forward"),
    Column("unpriced_operators", str, "", "operators that count nothing in `flops`, each with how often it was called"),
    Column("activation_bytes", int, "bytes", "all results together"),
    Column("peak_bytes", int, "bytes", "the most that results hold at once, as it runs"),
    Column("peak_bytes_last_use", int, "bytes", "the same, if each were freed at its last use"),
    Column("saved_bytes", int, "bytes", "what is kept for the backward pass; with `--train` alone"),
    Column("steps", int, "", "operators that are neither a view nor an input"),
    Column("nodes", int, "", "operators"),
    Column("edges", int, "", "operands that are data"),
    Column("merges", int, "", "sums and concats, those that are no skips included"),
    Column("skips", int, "", "of all kinds; a concat counts once"),
    Column("add", int, "", "of them sums"),
    Column("concat", int, "", "of them concats"),
    Column("gated", int, "", "of them sums whose shortcut is multiplied by a gate"),
    Column("short", int, "", "of them short"),
    Column("long", int, "", "of them long"),
    Column("identity", int, "", "of them without layers on the shortcut"),
    Column("projected", int, "", "of them with layers on the shortcut"),
    Column("skip_edges", int, "", "shortcut operands, nested concats expanded"),
    Column("warnings", int, "", "what `skipgraph inspect` would warn of"),
)
SECONDS = Column("seconds", float, "seconds", "from the start of its process to its end; with `--timings` alone")


def columns(*, timings: bool = False) -> tuple[Column, ...]:
    """The columns of a table, without or with the time that each model took."""
    return (*COLUMNS, SECONDS) if timings else COLUMNS

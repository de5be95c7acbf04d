"""Numbers as people read them: SI prefixes for counts, binary ones for bytes, shapes with a multiplication sign."""

from __future__ import annotations

from collections.abc import Iterable

_DECIMAL = ("", "k", "M", "G", "T", "P")
_BINARY = ("B", "KiB", "MiB", "GiB", "TiB", "PiB")


def _scaled(number: float, step: int, prefixes: tuple[str, ...]) -> tuple[str, str]:
    """Three significant digits of ``number`` and the prefix that they stand before."""
    place = 0
    # 999.5 would be printed as 1000, so it moves on to the next prefix.
    while abs(number) >= min(step, 999.5) and place < len(prefixes) - 1:
        number, place = number / step, place + 1
    if place == 0:
        return f"{number:g}", prefixes[0]
    digits = 2 if abs(number) < 9.995 else 1 if abs(number) < 99.95 else 0
    return f"{number:.{digits}f}", prefixes[place]


def count(number: float) -> str:
    """A plain count with an SI prefix.

    Examples
    --------
    >>> count(4_111_512_576), count(25_557_032), count(999)
    ('4.11 G', '25.6 M', '999')
    """
    digits, prefix = _scaled(number, 1000, _DECIMAL)
    return f"{digits} {prefix}".strip()


def flops(number: float) -> str:
    """Multiply-adds with an SI prefix.

    Examples
    --------
    >>> flops(4_111_512_576)
    '4.11 GFLOPs'
    """
    digits, prefix = _scaled(number, 1000, _DECIMAL)
    return f"{digits} {prefix}FLOPs"


def size(number: float) -> str:
    """Bytes with a binary prefix.

    Examples
    --------
    >>> size(3_211_264), size(512)
    ('3.06 MiB', '512 B')
    """
    digits, unit = _scaled(number, 1024, _BINARY)
    return f"{digits} {unit}"


def shape(sizes: Iterable[int]) -> str:
    """A shape, or "scalar".

    Examples
    --------
    >>> shape((1, 64, 56, 56))
    '1×64×56×56'
    """
    return "×".join(str(s) for s in sizes) or "scalar"


def share(part: float, whole: float) -> str:
    """``part`` of ``whole`` in per cent; never "0 %" for something that is there.

    Examples
    --------
    >>> share(38, 100), share(1, 1000)
    ('38 %', '<1 %')
    """
    if not whole:
        return "0 %"
    percent = 100 * part / whole
    return "<1 %" if 0 < percent < 0.5 else f"{percent:.0f} %"


def plural(number: int, noun: str, many: str = "") -> str:
    """A count with its noun.

    Examples
    --------
    >>> plural(1, "skip"), plural(1200, "skip"), plural(2, "merge of branches", "merges of branches")
    ('1 skip', '1,200 skips', '2 merges of branches')
    """
    return f"{number:,} {noun if number == 1 else many or noun + 's'}"

"""Formats find themselves, other packages' included; numbers read the same everywhere."""

from __future__ import annotations

import pytest

from skipgraph import report
from skipgraph.errors import UsageError
from skipgraph.report import registry, units
from tests.report import inspections


def test_the_formats():
    assert report.formats() == ("dot", "json", "pdf", "png", "svg", "table")


def test_an_unknown_format_names_the_known_ones():
    with pytest.raises(UsageError, match="unknown format 'docx'") as error:
        report.render(inspections.sketch("vit"), "docx")
    assert "dot, json, pdf, png, svg, table" in error.value.remedy


def test_a_format_is_one_function(monkeypatch):
    monkeypatch.setattr(registry, "_FORMATS", {})

    @registry.register("words")
    def words(inspection, options):
        return f"{inspection.spec} {options.depth}"

    monkeypatch.setattr(report, "load_formats", lambda: registry._FORMATS)
    assert report.formats() == ("words",)
    assert report.render(inspections.sketch("vit"), "words", depth=3) == "vit 3"
    with pytest.raises(ValueError, match="registered twice"):
        registry.register("words")(words)


def test_other_packages_add_formats(monkeypatch):
    class EntryPoint:
        @staticmethod
        def load():
            registry._FORMATS["theirs"] = lambda inspection, options: "theirs"

    def entry_points(*, group):
        return [EntryPoint] if group == "skipgraph.report" else []

    monkeypatch.setattr(registry, "_FORMATS", dict(registry._FORMATS))
    monkeypatch.setattr(registry, "entry_points", entry_points)
    assert "theirs" in registry.load_formats.__wrapped__()


@pytest.mark.parametrize(
    ("number", "count", "size"),
    [
        (0, "0", "0 B"),
        (999, "999", "999 B"),
        (1000, "1.00 k", "0.98 KiB"),
        (1024, "1.02 k", "1.00 KiB"),
        (999_499, "999 k", "976 KiB"),
        (999_999, "1.00 M", "977 KiB"),
        (12_345_678_901, "12.3 G", "11.5 GiB"),
    ],
)
def test_numbers_have_three_digits(number, count, size):
    assert (units.count(number), units.size(number)) == (count, size)


def test_a_share_is_never_zero_for_something():
    assert (units.share(0, 10), units.share(1, 10_000), units.share(5, 10), units.share(1, 0)) == (
        "0 %",
        "<1 %",
        "50 %",
        "0 %",
    )

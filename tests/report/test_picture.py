"""Graphviz in its child process: time limits, failures, absence, silence."""

from __future__ import annotations

import sys

import pygraphviz
import pytest

from skipgraph import report
from skipgraph.report import layout, picture
from tests.report import inspections


@pytest.fixture
def said():
    return []


def test_each_format_is_what_it_is_called():
    inspection = inspections.sketch("vit")
    assert report.render(inspection, "png")[:8] == b"\x89PNG\r\n\x1a\n"
    assert report.render(inspection, "pdf")[:5] == b"%PDF-"
    assert "<svg" in report.render(inspection, "svg")


def test_it_is_the_same_twice():
    inspection = inspections.sketch("resnet50")
    assert report.render(inspection, "svg") == report.render(inspection, "svg")


def test_graphviz_says_nothing_to_the_user(capfd):
    report.render(inspections.sketch("vit"), "png")
    assert capfd.readouterr() == ("", "")


def test_a_layout_that_takes_too_long_is_simplified_and_said(monkeypatch, said):
    monkeypatch.setattr(picture, "lay_out", _slow_but_for("subgraph cluster"))
    svg = report.render(inspections.sketch("vit"), "svg", warn=said.append)
    assert svg == "<svg/>"
    assert said == ["the layout takes more than 20 s, so the diagram is drawn without frames round its modules"]


def _slow_but_for(word):
    def lay_out(dot, form, seconds):
        if word in dot:
            raise picture.LayoutError(f"the layout takes more than {seconds:g} s")
        return b"<svg/>"

    return lay_out


def test_if_nothing_is_laid_out_in_time_the_source_is_given(monkeypatch, said):
    monkeypatch.setattr(picture, "TIME_LIMIT_SECONDS", 1e-4)
    svg = report.render(inspections.sketch("vit"), "svg", warn=said.append)
    assert report.is_dot(svg)
    assert svg == report.render(inspections.sketch("vit"), "dot")
    assert len(said) == 1
    assert "takes more than 0.0001 s, even in the plainest drawing" in said[0]


def test_the_child_is_really_stopped():
    with pytest.raises(picture.LayoutError, match=r"takes more than 0\.01 s"):
        picture.lay_out("digraph { a -> b }", "svg", 0.01)


def test_a_source_that_graphviz_cannot_read_is_an_error():
    with pytest.raises(picture.LayoutError):
        picture.lay_out("digraph { a -> ", "svg", 20)


def test_without_graphviz_the_source_is_given_and_how_to_draw_it(monkeypatch, said):
    monkeypatch.setattr(picture, "_commands", lambda form: iter(()))
    content = report.render(inspections.sketch("vit"), "pdf", warn=said.append)
    assert report.is_dot(content)
    assert "pip install 'skipgraph[svg]'" in said[0]
    assert "dot -Tpdf FILE.dot -o FILE.pdf" in said[0]


def test_a_dot_program_serves_where_pygraphviz_fails(monkeypatch, tmp_path):
    program = tmp_path / "dot"
    program.write_text(f"#!{sys.executable}\nprint('<svg>by dot</svg>')\n")
    program.chmod(0o755)
    monkeypatch.setenv("PATH", str(tmp_path))
    monkeypatch.setattr(picture.importlib.util, "find_spec", lambda name: None)
    assert picture.lay_out("digraph { a }", "svg", 20).decode().strip() == "<svg>by dot</svg>"


def test_the_default_warning_is_a_python_warning(monkeypatch):
    monkeypatch.setattr(picture, "_commands", lambda form: iter(()))
    with pytest.warns(RuntimeWarning, match="there is no Graphviz"):
        report.render(inspections.sketch("vit"), "svg")


class TestTitlesOfFrames:
    def test_a_spline_is_sampled_from_end_to_end(self):
        points = list(layout._points("e,9,9 0,0 0,10 10,10 10,20"))
        assert points[0] == (0, 0)
        assert points[-1] == (10, 20)
        assert (5, 10) in points

    @pytest.mark.parametrize(("rectangle", "crossed"), [(((4, 8), (6, 12)), True), (((6, 0), (9, 8)), False)])
    def test_a_title_is_crossed_if_the_spline_runs_through_it(self, rectangle, crossed):
        assert layout._crosses(list(layout._points("0,0 0,10 10,10 10,20")), *rectangle) is crossed

    def test_a_title_moves_out_of_the_way(self):
        frame = 'subgraph cluster_a { label="quite a long title" labeljust=l; x [width=0.2]; y [width=4] }'
        graph = pygraphviz.AGraph(string=f"digraph {{ {frame} x -> y; top -> x [weight=9] }}")
        graph.layout(prog="dot")
        attributes = graph.get_subgraph("cluster_a").graph_attr
        left, _, right, _ = (float(x) for x in attributes["bb"].split(","))
        side = dict(layout._better_sides(graph))["cluster_a"]
        arrow = float(graph.get_edge("top", "x").attr["pos"].split()[-1].split(",")[0])
        assert (
            abs(arrow - {"l": left, "r": right, "c": (left + right) / 2}[side]) > 72 * float(attributes["lwidth"]) / 2
        )

"""The diagrams: hand-drawn graphs with known answers, then every file of fixtures/."""

from __future__ import annotations

import networkx as nx
import pygraphviz
import pytest

from skipgraph import report
from skipgraph.report.draw import MOST_BOXES, draw
from skipgraph.report.drawing import Drawing, Frame
from tests.helpers import fixtures
from tests.report import inspections
from tests.report.sketches import SKETCHES, densenet, resnet, unet
from tests.report.svg import Svg

EVERYTHING = [("sketch", name) for name in SKETCHES] + [("fixture", name) for name in fixtures.names()]


@pytest.fixture(params=EVERYTHING, ids=lambda pair: "-".join(pair))
def inspection(request):
    kind, name = request.param
    return getattr(inspections, kind)(name)


def frames(drawing: Drawing) -> list[Frame]:
    found = []
    pending = list(drawing.members)
    while pending:
        member = pending.pop()
        if isinstance(member, Frame):
            found.append(member)
            pending += member.members
    return found


def titles(drawing: Drawing) -> dict[str, int]:
    return {frame.title: frame.times for frame in frames(drawing) if frame.times > 1}


class TestFolding:
    def test_folded_counts_sum_to_the_totals(self, inspection):
        graph = inspection.graph
        for drawing in (draw(graph), draw(graph, depth=1), draw(graph, depth=2, unfold=True)):
            boxes = drawing.boxes.values()
            assert sum(box.flops for box in boxes) == graph.cost.flops
            assert sum(box.skips for box in boxes) == graph.counts.skips
            assert sum(box.parameters for box in boxes) == sum(graph.nodes[n]["parameters"] for n in graph)
            assert sorted(node for box in boxes for node in box.nodes) == sorted(graph)

    def test_no_box_lies_on_a_cycle(self, inspection):
        for depth in (None, 0, 1, 2, 3):
            drawing = draw(inspection.graph, depth=depth)
            assert nx.is_directed_acyclic_graph(nx.DiGraph((a.tail, a.head) for a in drawing.arrows))

    def test_every_long_skip_is_drawn_at_every_depth(self, inspection):
        long = sorted(skip.id for skip in inspection.graph.skips if skip.span == "long")
        for depth in (None, 0, 1, 2, 9):
            arrows = draw(inspection.graph, depth=depth).arrows
            drawn = sorted(name for arrow in arrows if arrow.style.long for name in arrow.skips)
            assert [name for name in drawn if name in long] == long

    def test_a_source_and_its_merge_are_never_one_box(self, inspection):
        for arrow in draw(inspection.graph).arrows:
            assert arrow.tail != arrow.head

    def test_frames_and_boxes_are_a_tree(self, inspection):
        drawing = draw(inspection.graph)
        listed = [name for m in drawing.members for name in (m.boxes() if isinstance(m, Frame) else [m])]
        assert sorted(listed) == sorted(drawing.boxes)


class TestRepetitions:
    def test_a_vit_is_twelve_blocks_drawn_once_with_their_skips(self):
        drawing = draw(inspections.sketch("vit").graph)
        assert titles(drawing) == {"encoder.layers.encoder_layer_0–11": 12}
        shortcuts = [arrow for arrow in drawing.arrows if arrow.style.role == "skip"]
        assert [len(arrow.skips) for arrow in shortcuts] == [12, 12]

    def test_projected_blocks_of_a_resnet_stay_apart(self):
        drawing = draw(inspections.sketch("resnet50").graph)
        assert titles(drawing) == {"layer1.1–2": 2, "layer2.1–3": 3, "layer3.1–5": 5, "layer4.1–2": 2}
        merges = [box for box in drawing.boxes.values() if box.merge]
        assert sorted(box.times for box in merges) == [1, 1, 1, 1, 2, 2, 3, 5]

    def test_shortcuts_of_a_dense_block_are_bundled(self):
        drawing = draw(inspections.sketch("densenet121").graph)
        assert sorted(titles(drawing).values()) == [5, 11, 15, 23]
        shortcuts = [arrow for arrow in drawing.arrows if arrow.style.role == "skip"]
        assert len(shortcuts) == 8  # into each block's layers, and from them into its last concat
        assert sum(len(arrow.skips) for arrow in shortcuts) == 6 * 7 // 2 + 12 * 13 // 2 + 24 * 25 // 2 + 16 * 17 // 2

    def test_unfolded_every_block_is_drawn(self):
        graph = inspections.sketch("vit").graph
        drawing = draw(graph, unfold=True)
        assert titles(drawing) == {}
        assert sum(box.merge is not None for box in drawing.boxes.values()) == 24

    def test_blocks_of_another_shape_are_no_repetition(self):
        graph = resnet(blocks=(1, 1, 1, 1))
        assert titles(draw(graph)) == {}

    def test_blocks_with_another_skip_are_no_repetition(self):
        graph = resnet(blocks=(3, 1, 1, 1))
        merge = next(merge for merge in graph.merges if merge.node == "layer1.2.add")
        merge.skips[0].shortcut = "projected"
        assert titles(draw(graph)) == {}

    def test_a_block_that_is_read_from_outside_is_no_repetition(self):
        graph = inspections.sketch("resnet50").graph.copy()
        graph.merges, graph.counts, graph.cost = (getattr(inspections.sketch("resnet50").graph, name) for name in
                                                  ("merges", "counts", "cost"))  # fmt: skip
        graph.add_edge("layer3.2.relu:2", "fc", key=1, operand=1, bytes=1, flops=0, held_steps=1, skips=())
        assert titles(draw(graph))["layer3.3–5"] == 3

    def test_a_thousand_blocks_are_one(self):
        drawing = draw(resnet(blocks=(1000, 1, 1, 1)))
        assert titles(drawing) == {"layer1.1–999": 999}


class TestArrangement:
    def test_an_encoder_decoder_is_a_u(self):
        inspection = inspections.sketch("unet")
        plain = pygraphviz.AGraph(string=report.render(inspection, "dot"))
        plain.layout(prog="dot")
        heights = {}
        for node in plain.nodes():
            operators = node.attr["tooltip"].split("operators: ")[1].split(", ")
            for name in operators:
                heights[name] = float(node.attr["pos"].split(",")[1])
        for skip in inspection.graph.skips:
            assert heights[skip.source] == pytest.approx(heights[skip.merge])
        assert heights["encoder.0.conv1"] > heights["encoder.3.conv1"] > heights["bottleneck.conv1"]
        assert heights["head"] > heights["decoder.3.conv1"] > heights["decoder.0.conv1"] > heights["bottleneck.conv1"]

    def test_a_long_chain_is_no_strip(self):
        svg = Svg(str(report.render(inspections.sketch("densenet121"), "svg")))
        _, _, width, height = (float(value) for value in (svg.root.get("viewBox") or "").split())
        assert height < 2 * width


class TestSvg:
    @pytest.fixture
    def svg(self, inspection):
        def fail(message):
            pytest.fail(message)

        return Svg(report.render(inspection, "svg", warn=fail))

    def test_it_is_small_and_legible(self, inspection, svg):
        drawing = draw(inspection.graph)
        assert len(svg.nodes) == len(drawing.boxes) <= MOST_BOXES
        assert len(svg.edges) >= len(drawing.arrows)
        assert svg.overlapping() == []

    def test_it_names_every_long_skip(self, inspection, svg):
        text = svg.text()
        for skip in inspection.graph.skips:
            assert skip.span == "short" or skip.id in text

    def test_its_title_has_the_totals(self, inspection, svg):
        skips = inspection.graph.counts.skips
        assert f"{skips:,} skip" in svg.text()
        assert "1 FLOP = 1 multiply-add" in svg.text()


def test_boxes_say_shape_flops_and_parameters():
    svg = Svg(str(report.render(inspections.sketch("unet"), "svg")))
    text = svg.text()
    assert "1×64×256×256" in text
    assert "48.2 GFLOPs" in text
    assert "31.0 M parameters" in text
    tooltips = [value for element in svg.root.iter() for key, value in element.items() if key.endswith("title")]
    assert any("2,545,942,528 FLOPs, 38,848 parameters" in tooltip for tooltip in tooltips)


def test_dot_is_dot_and_the_same_twice():
    inspection = inspections.sketch("densenet121")
    first, second = (report.render(inspection, "dot") for _ in range(2))
    assert first == second
    assert report.is_dot(first)
    assert len(pygraphviz.AGraph(string=first).nodes()) == len(draw(inspection.graph).boxes)


def test_names_that_mean_something_in_dot_and_html_are_escaped():
    graph = unet(levels=1)
    inspection = inspections.sketch("unet")
    odd = type(inspection)('a<b>&"c"\\N.py', "random", graph, inspection.inputs, "meta")
    assert 'a<b>&"c"\\N.py' in Svg(str(report.render(odd, "svg"))).text()


def test_densenet201_is_laid_out_in_seconds_even_unfolded():
    graph = densenet(blocks=(6, 12, 48, 32))
    inspection = type(inspections.sketch("unet"))("densenet201", "random", graph, [], "meta")
    svg = Svg(str(report.render(inspection, "svg", unfold=True, warn=pytest.fail)))
    assert len(svg.nodes) > 200

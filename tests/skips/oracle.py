"""Section by section what the definitions say, by listing every path: slow, and shares no line with the detector.

It knows sums and concats of tensors at one resolution (and of conditions with one position): sources, stems, main
paths, conditions 1 and 5, S and Lb.
"""

from __future__ import annotations

from collections.abc import Sequence

import networkx as nx

from tests.skips.handmade import Step

MERGES = ("add", "cat")
Found = dict[tuple[int, str], tuple[str, str]]  # (merge, path of an operand through flattened merges) -> span, shortcut


class Oracle:
    def __init__(self, steps: Sequence[Step]) -> None:
        self.steps = steps
        self.live = self._live()
        self.slots = {n: self._slots(n) for n in sorted(self.live) if self._is_merge(n) and not self._absorbed(n)}
        self.graph = nx.DiGraph()
        for node in self.live:
            for operand in [o for _, o in self.slots[node]] if node in self.slots else steps[node].operands:
                self.graph.add_edge(operand, node)
        self.graph.add_nodes_from(self.live)
        self.additive: dict[int, set[int]] = {}  # sum with skips -> their sources
        self.found: Found = {}
        for merge in self.slots:
            self._judge(merge)

    # -- what the merges are -----------------------------------------------------------------------------------------

    def _live(self) -> set[int]:
        live = {n for n, step in enumerate(self.steps) if step.output}
        for node in reversed(range(len(self.steps))):
            if node in live:
                live.update(self.steps[node].operands)
        return live

    def _is_merge(self, node: int) -> bool:
        return self.steps[node].op in MERGES and len(self.steps[node].operands) > 1

    def _absorbed(self, node: int) -> bool:
        """Its only live consumer is a merge of the same kind, and reads it once."""
        readers = [n for n in self.live for operand in self.steps[n].operands if operand == node]
        if not self._is_merge(node) or self.steps[node].output or len(readers) != 1:
            return False
        return self._is_merge(readers[0]) and self.steps[readers[0]].op == self.steps[node].op

    def _slots(self, merge: int) -> list[tuple[str, int]]:
        """Operands with their places, those of absorbed merges in the place of these."""
        slots: list[tuple[str, int]] = []
        for place, operand in enumerate(self.steps[merge].operands):
            if self._absorbed(operand):
                slots += [(f"{place}.{inner}", o) for inner, o in self._slots(operand)]
            else:
                slots.append((str(place), operand))
        return slots

    # -- paths -------------------------------------------------------------------------------------------------------

    def _paths(self, source: int, ends: set[int], within: set[int]) -> list[list[int]]:
        """All paths from ``source`` to ``ends``, without ``source`` itself."""
        region = self.graph.subgraph(within | {source})
        return [path[1:] for end in ends & within for path in nx.all_simple_paths(region, source, end)]

    def _weight(self, paths: list[list[int]]) -> int:
        return max((sum(self.steps[n].op == "convolution" for n in path) for path in paths), default=0)

    def _judge(self, merge: int) -> None:
        for place, operand in self.slots[merge]:
            ancestors = {operand} | nx.ancestors(self.graph, operand)
            others = {o for other, o in self.slots[merge] if other != place} - ancestors
            outside = self.live - ancestors
            for source in sorted(ancestors, reverse=True):  # the nearest first
                main = self._paths(source, others, outside)
                stem = self._paths(source, {operand}, ancestors)
                if main and (verdict := self._verdict(merge, operand, source, stem, main)):
                    self.found[merge, place] = verdict
                    if self.steps[merge].op == "add":
                        self.additive.setdefault(merge, set()).add(source)
                    break

    # -- the conditions ----------------------------------------------------------------------------------------------

    def _verdict(
        self, merge: int, operand: int, source: int, stem: list[list[int]], main: list[list[int]]
    ) -> tuple[str, str] | None:
        if self._weight(stem) >= self._weight(main):  # condition 1
            return None
        if self.steps[source].positions == 1 < self.steps[merge].positions:  # condition 5
            return None
        long = self._nested(merge, source, stem, main)
        if not long and not self._short(stem, main):
            return None
        return "long" if long else "short", "projected" if self._weight(stem) else "identity"

    def _short(self, stem: list[list[int]], main: list[list[int]]) -> bool:
        ops = [[self.steps[n].op for n in path] for path in stem]
        if any("relu" in path[path.index("convolution") :] for path in ops if "convolution" in path):
            return False
        return not self._weight(stem) or any(self.steps[n].op == "relu" for path in main for n in path)

    def _nested(self, merge: int, source: int, stem: list[list[int]], main: list[list[int]]) -> bool:
        """Lb at one resolution: a linear stem, and two additive skips in series on the main path."""
        if any(self.steps[n].op == "relu" for path in stem for n in path):
            return False
        inside = {source}.union(*main)
        left_out = self._feeding_sums(merge)
        sums = {n for n in inside if n not in left_out and self.additive.get(n, set()) & inside}
        return any(len(sums.intersection(path)) >= 2 for path in main)

    def _feeding_sums(self, merge: int) -> set[int]:
        """Sums that are operands, up to operators that are no layers, and feed another operand."""
        sums = set()
        for place, operand in self.slots[merge]:
            node = operand
            while node not in self.additive and self.steps[node].op in ("relu", "batch_norm"):
                (node,) = self.steps[node].operands
            others = [o for other, o in self.slots[merge] if other != place]
            if node in self.additive and any(o == node or nx.has_path(self.graph, node, o) for o in others):
                sums.add(node)
        return sums

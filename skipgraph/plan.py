"""Which sites of a model are rewritten, and the record of it that another checkpoint, or the way back, goes by."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Sequence
from dataclasses import asdict, dataclass, field, fields, replace
from fnmatch import fnmatchcase
from typing import Any

from torch import nn

from skipgraph.compress import Factored
from skipgraph.compress.placing import Fold
from skipgraph.errors import NothingToRewriteError, PlanError
from skipgraph.graph import SkipGraph
from skipgraph.passes import ConcatToSum, Delta, Match, Refusal, SumToConcat
from skipgraph.passes.record import ConcatRecord, Record, SumRecord, from_json, to_json
from skipgraph.passes.state_map import StateMap

SCHEMA = "skipgraph.plan/1"
_PASSES = {one.name: one for one in (ConcatToSum, SumToConcat)}


@dataclass(frozen=True, slots=True)
class Outcome:
    """What became of one merge.

    Attributes
    ----------
    id : str
        Of the merge.
    skips : tuple of str
        Ids of its skips.
    status : str
        ``"rewritten"``; ``"kept"`` (it could be, but is better left as it is, ``reason`` says why); ``"refused"``;
        ``"excluded"`` (by a pattern).
    reason : str
        One sentence: how, or why not.
    node : str
        The node that stands in the way of a refused one.
    delta : Delta
        What the rewrite of this merge alone changes.
    """

    id: str
    skips: tuple[str, ...]
    status: str
    reason: str
    node: str = ""
    delta: Delta = field(default_factory=Delta)


@dataclass(frozen=True, slots=True)
class Plan:
    """What was done to a model, and what it takes to do it again, or to undo it.

    Attributes
    ----------
    rewrite : str
        ``"concat_to_sum"`` or ``"sum_to_concat"``.
    options : dict
        The fields of the pass, the execution, whether it is for inference, and the seed.
    fingerprint : str
        Of the names, shapes and dtypes of the original's tensors: a plan serves every checkpoint of one architecture.
    records : dict
        ``{False: …, True: …}``: what was done to the graph of evaluation and to that of training, in order.
    state_map : StateMap
        From the original's tensors to the new ones.
    outcomes : tuple of Outcome
        Of every merge that was looked at.
    spec : str
        How the user named the model.
    factors : tuple of Factored
        Layers that pairs of lower rank stand for.
    folds : tuple of Fold
        Projections that other layers make now.
    """

    rewrite: str
    options: dict[str, Any]
    fingerprint: str
    records: dict[bool, tuple[Record, ...]]
    state_map: StateMap
    outcomes: tuple[Outcome, ...]
    spec: str = ""
    factors: tuple[Factored, ...] = ()
    folds: tuple[Fold, ...] = ()

    def to_json(self) -> str:
        """The text of ``plan.json``."""
        evaluation, training = self.records[False], self.records[True]
        data = {
            "schema": SCHEMA,
            "spec": self.spec,
            "rewrite": self.rewrite,
            "options": self.options,
            "fingerprint": self.fingerprint,
            "sites": [to_json(record) for record in evaluation],
            "training_sites": None if training == evaluation else [to_json(record) for record in training],
            "factors": [asdict(one) for one in self.factors],
            "folds": [asdict(one) for one in self.folds],
            "state_map": self.state_map.as_json(),
            "merges": [asdict(outcome) for outcome in self.outcomes],
        }
        return json.dumps(data, indent=1, ensure_ascii=False) + "\n"

    @classmethod
    def from_json(cls, text: str) -> Plan:
        """What `to_json` wrote.

        Raises
        ------
        PlanError
            If it is no plan, or one of another version.
        """
        try:
            data = json.loads(text)
            if data["schema"] != SCHEMA:
                raise PlanError(f"the plan is of schema {data['schema']}, not {SCHEMA}", "Make it anew by rewrite.")
            options = {one.name for one in fields(_PASSES[data["rewrite"]])} | {"execution", "inference", "seed"}
            if set(data["options"]) != options:
                raise ValueError(f"its options are not {', '.join(sorted(options))}")
            evaluation = tuple(from_json(one) for one in data["sites"])
            training = data["training_sites"]
            outcomes = tuple(
                Outcome(**{**one, "skips": tuple(one["skips"]), "delta": Delta(**one["delta"])})
                for one in data["merges"]
            )
            return cls(
                data["rewrite"], data["options"], data["fingerprint"],
                {False: evaluation, True: evaluation if training is None else tuple(map(from_json, training))},
                StateMap.from_json(data["state_map"]), outcomes, data["spec"],
                tuple(Factored(**one) for one in data["factors"]), tuple(Fold(**one) for one in data["folds"]),
            )  # fmt: skip
        except (ValueError, KeyError, TypeError, AttributeError, ImportError) as error:
            raise PlanError(f"this is no plan: {error}", "Give the plan.json of an emitted directory.") from None

    def named(self, spec: str) -> Plan:
        """The same plan for a model that the user calls ``spec``."""
        return replace(self, spec=spec)


def fingerprint(model: nn.Module) -> str:
    """A digest of the names, shapes and dtypes of a model's parameters and buffers."""
    lines = [f"{name} {tuple(tensor.shape)} {tensor.dtype}" for name, tensor in sorted(model.state_dict().items())]
    return hashlib.sha256("\n".join(lines).encode()).hexdigest()


def selected(
    found: Sequence[Match | Refusal], graph: SkipGraph, only: Sequence[str], skip: Sequence[str], *, skips_only: bool
) -> tuple[list[Match | Refusal], list[Outcome]]:
    """What the user asked for, and the outcomes of what was left out.

    A pattern is matched against the ids of skips and merges, and against the path of the module that merges and of
    those around it; ``*`` and ``?`` stand for any characters. Merges that are no skips are looked at if a pattern of
    ``only`` matches them by their id, or if ``skips_only`` is not set.

    Raises
    ------
    NothingToRewriteError
        If a pattern matches nothing.
    """
    names = {one.merge.id: _names(one, graph) for one in found}
    for pattern in (*only, *skip):
        if not any(_matches(pattern, names[one.merge.id]) for one in found):
            known = ", ".join(one.merge.id for one in found[:8]) + (", …" if len(found) > 8 else "")
            raise NothingToRewriteError(f"no skip and no module matches {pattern!r}", f"There are: {known or 'none'}.")
    chosen: list[Match | Refusal] = []
    left: list[Outcome] = []
    for one in found:
        ids = [one.merge.id, *(each.id for each in one.merge.skips)]
        named = any(_matches(pattern, ids) for pattern in only)
        wanted = not only or any(_matches(pattern, names[one.merge.id]) for pattern in only)
        if skips_only and not one.merge.skips and not named:
            if any(_matches(pattern, ids) for pattern in skip):  # nor as what chosen ones join
                left.append(Outcome(one.merge.id, (), "excluded", "left out by --only or --skip"))
            continue
        if wanted and not any(_matches(pattern, names[one.merge.id]) for pattern in skip):
            chosen.append(one)
        else:
            left.append(Outcome(one.merge.id, tuple(ids[1:]), "excluded", "left out by --only or --skip"))
    return chosen, left


def matches(path: str, only: Sequence[str], skip: Sequence[str]) -> bool:
    """Whether a module that merges nothing is wanted by such patterns."""
    parts = path.split(".")
    around = [".".join(parts[: count + 1]) for count in range(len(parts))]
    wanted = not only or any(_matches(pattern, around) for pattern in only)
    return wanted and not any(_matches(pattern, around) for pattern in skip)


def _names(found: Match | Refusal, graph: SkipGraph) -> list[str]:
    module = graph.nodes[found.merge.node].get("module", "")
    parts = module.split(".") if module else []
    around = [".".join(parts[: count + 1]) for count in range(len(parts))]
    return [found.merge.id, *(skip.id for skip in found.merge.skips), *around]


def _matches(pattern: str, names: Sequence[str]) -> bool:
    return any(fnmatchcase(name, pattern) for name in names)


__all__ = ["SCHEMA", "ConcatRecord", "Outcome", "Plan", "SumRecord", "fingerprint", "selected"]

"""What was measured of two models."""

from __future__ import annotations

from dataclasses import asdict, dataclass
from typing import Any

from skipgraph.bench.settings import Settings
from skipgraph.bench.statistics import CONFIDENCE, METHOD, Ratio, Verdict

SCHEMA = "skipgraph.bench/1"


@dataclass(frozen=True, slots=True)
class Measured:
    """One of the two models.

    Attributes
    ----------
    name : str
    seconds : float
        Of a run: the median over its blocks.
    quartiles : tuple of float
        The first and the third of the same.
    runs : int
        That were timed, warm-up apart.
    peak_bytes : int
        The most that a run held at once: inputs, activations and workspace, in training also gradients. Parameters
        and buffers, which were there before, are no part of it.
    parameter_bytes, buffer_bytes : int
        A tensor that is shared within the model counts once.
    """

    name: str
    seconds: float
    quartiles: tuple[float, float]
    runs: int
    peak_bytes: int
    parameter_bytes: int
    buffer_bytes: int


@dataclass(frozen=True, slots=True)
class Bench:
    """Two models, A and B, timed in turns on the same inputs.

    Attributes
    ----------
    device : str
        What its maker calls it.
    torch_version : str
    settings : Settings
    inputs : list of dict
        ``{"name", "shape", "dtype"}`` of every input tensor.
    a, b : Measured
    ratio : Ratio
        Of B's time to A's.
    rounds : int
        Pairs of times that the ratio was found from.
    output_difference : float or None
        Largest difference of an output, relative to the largest value of that output; None in training, where the
        models may draw random numbers, and where an output is not finite.
    """

    device: str
    torch_version: str
    settings: Settings
    inputs: list[dict[str, Any]]
    a: Measured
    b: Measured
    ratio: Ratio
    rounds: int
    output_difference: float | None

    @property
    def verdict(self) -> Verdict:
        """Whether there is a difference of time, and which way."""
        return self.ratio.verdict

    @property
    def summary(self) -> str:
        """The verdict in one sentence, with the ratio and its interval."""
        return self.ratio.summary

    def as_json(self) -> dict[str, Any]:
        """Plain data; docs/bench.md tells the fields."""
        return {
            "schema": SCHEMA,
            "device": self.device,
            "torch": self.torch_version,
            "settings": asdict(self.settings),
            "inputs": self.inputs,
            "a": asdict(self.a) | {"quartiles": list(self.a.quartiles)},
            "b": asdict(self.b) | {"quartiles": list(self.b.quartiles)},
            "ratio": asdict(self.ratio) | {"confidence": CONFIDENCE, "method": METHOD, "rounds": self.rounds},
            "output_difference": self.output_difference,
            "verdict": self.verdict,
            "summary": self.summary,
        }

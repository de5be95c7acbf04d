"""A short recovery of a rewritten model: it learns to compute what the original does, without labels."""

from __future__ import annotations

import math
from collections.abc import Callable, Iterable, Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

from skipgraph.capture.trees import tensors
from skipgraph.compress.data import Batch, Calibration
from skipgraph.compress.measured import fitted
from skipgraph.errors import InputError, UsageError
from skipgraph.rewriting import Rewritten

Progress = Callable[[str], None]


def distill(
    original: nn.Module,
    rewritten: Rewritten,
    loader: Iterable[Any],
    *,
    epochs: int = 1,
    learning_rate: float = 3e-4,
    weight_decay: float = 1e-4,
    sites_weight: float = 1.0,
    checkpoint: str | Path | None = None,
    progress: Progress | None = None,
) -> list[float]:
    """Train a rewritten model towards the outputs of the original, at the factored layers and at the end.

    AdamW (Loshchilov and Hutter, 2019) with a cosine to zero over all steps; on CUDA in bfloat16 where the device has
    it. The loss is the mean of relative squared errors: ``E‖ours − theirs‖² / E‖theirs − mean‖²`` of each output, and
    ``sites_weight`` times that of each factored layer. Both models run in evaluation, where the student is to compute
    what the teacher does: dropout is off, and batch norms keep their statistics, which factoring has moved already.

    Parameters
    ----------
    original : Module
        The teacher; it runs in evaluation, and is not changed.
    rewritten : Rewritten
        Its ``model`` is trained in place, and left in evaluation.
    loader : iterable
        Batches of inputs, as for calibration: labels behind them are left out. Gone through ``epochs`` times, so give
        one that shuffles.
    epochs : int
    learning_rate, weight_decay, sites_weight : float
    checkpoint : path, optional
        Written after each epoch, whole or not at all; if it is there, training goes on from it.
    progress : callable, optional
        Told of each epoch.

    Returns
    -------
    list of float
        The mean loss of each epoch, those before a resumption included.

    Raises
    ------
    UsageError
        If the model was made for inference, or the checkpoint is that of another model.
    InputError
        If the data does not fit the model.
    """
    model = rewritten.model
    if rewritten.plan.options["inference"]:
        raise UsageError("a model for inference does not train", "Rewrite without inference what is to be distilled.")
    if epochs < 1:
        raise UsageError(f"{epochs} epochs are no training", "Give at least one.")
    data = Calibration(loader, rewritten.inputs)
    steps = sum(1 for _ in loader)
    if not steps:
        raise InputError("the loader is empty", "Give batches of the model's inputs.")
    parameters = [parameter for parameter in model.parameters() if parameter.requires_grad]
    if not parameters:
        raise UsageError("no parameter of the model may be trained", "Let some require gradients.")
    optimiser = torch.optim.AdamW(parameters, lr=learning_rate, weight_decay=weight_decay)
    cosine = torch.optim.lr_scheduler.LambdaLR(
        optimiser, lambda step: (1 + math.cos(math.pi * min(1.0, step / (epochs * steps)))) / 2
    )
    state = _State(model, optimiser, cosine, Path(checkpoint) if checkpoint is not None else None)
    losses = state.resumed()
    sites = [(one.path, f"{one.path}.restore") for one in rewritten.plan.factors]
    for epoch in range(len(losses), epochs):
        total = 0.0
        for batch in data:
            loss = _loss(original, model, batch, sites, sites_weight)
            optimiser.zero_grad()
            loss.backward()
            optimiser.step()
            cosine.step()
            total += float(loss.detach())
        losses.append(total / steps)
        state.save(losses)
        if progress is not None:
            progress(f"epoch {epoch + 1} of {epochs}: loss {losses[-1]:.3g}")
    model.eval()
    return losses


def _loss(
    original: nn.Module, model: nn.Module, batch: Batch, sites: list[tuple[str, str]], sites_weight: float
) -> Tensor:
    args, kwargs = fitted(model, batch)
    with _evaluating(original), _heard(original, [path for path, _ in sites]) as theirs, torch.no_grad():
        wanted = list(tensors(original(*args, **kwargs)))
    with _heard(model.eval(), [path for _, path in sites]) as ours, _mixed(model):
        made = list(tensors(model(*args, **kwargs)))
    terms = [_relative(a, b) for a, b in zip(made, wanted, strict=True) if b.is_floating_point() and b.dim()]
    found = [sites_weight * _relative(ours[new], theirs[old]) for old, new in sites if old in theirs and new in ours]
    return torch.stack([*terms, *found]).mean()


def _relative(ours: Tensor, theirs: Tensor) -> Tensor:
    """A squared error relative to the spread of what is wanted around its mean, channel by channel."""
    theirs = theirs.detach().float()
    axis = 1 if theirs.dim() in (2, 4, 5) else theirs.dim() - 1
    others = [one for one in range(theirs.dim()) if one != axis]
    spread = (theirs - theirs.mean(others, keepdim=True)).square().mean()
    size = theirs.square().mean()
    spread = torch.where(spread > 1e-12 * size, spread, size)  # one sample has no spread
    return (ours.float() - theirs).square().mean() / spread.clamp_min(torch.finfo(torch.float32).tiny)


@contextmanager
def _heard(model: nn.Module, paths: list[str]) -> Iterator[dict[str, Tensor]]:
    """What the modules at ``paths`` make in this block."""
    made: dict[str, Tensor] = {}
    handles = [
        model.get_submodule(path).register_forward_hook(lambda _, given, result, path=path: made.update({path: result}))
        for path in paths
    ]
    try:
        yield made
    finally:
        for handle in handles:
            handle.remove()


@contextmanager
def _evaluating(model: nn.Module) -> Iterator[None]:
    modes = {module: module.training for module in model.modules()}
    model.eval()
    try:
        yield
    finally:
        for module, mode in modes.items():
            module.training = mode


@contextmanager
def _mixed(model: nn.Module) -> Iterator[None]:
    device = next(model.parameters()).device
    fast = device.type == "cuda" and torch.cuda.is_bf16_supported()
    with torch.autocast(device.type, torch.bfloat16, enabled=fast):
        yield


class _State:
    """Model, optimiser and schedule, in a file."""

    def __init__(self, model: nn.Module, optimiser: Any, cosine: Any, path: Path | None) -> None:
        self._parts: Mapping[str, Any] = {"model": model, "optimiser": optimiser, "schedule": cosine}
        self._path = path

    def resumed(self) -> list[float]:
        """The losses so far; everything else is as it was then."""
        if self._path is None or not self._path.exists():
            return []
        try:
            saved = torch.load(self._path, weights_only=True)
            losses: list[float] = saved["losses"]
            ours = self._parts["model"].state_dict()
            if {name: one.shape for name, one in ours.items()} != {n: one.shape for n, one in saved["model"].items()}:
                raise ValueError("names or shapes of its tensors differ")
            for name, part in self._parts.items():
                part.load_state_dict(saved[name])
        except Exception as error:  # whatever the file is
            raise UsageError(
                f"{self._path} is no checkpoint of this model: {str(error).partition('. ')[0]}",
                "Give another path, or none.",
            ) from None
        return losses

    def save(self, losses: list[float]) -> None:
        """Write the file, whole or not at all."""
        if self._path is None:
            return
        waiting = self._path.with_name(f".{self._path.name}.part")
        try:
            torch.save({**{name: part.state_dict() for name, part in self._parts.items()}, "losses": losses}, waiting)
            waiting.replace(self._path)
        finally:
            waiting.unlink(missing_ok=True)

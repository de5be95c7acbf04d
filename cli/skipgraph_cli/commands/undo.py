"""``skipgraph undo DIR``: the original again, from the weights that the rewritten model has now."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from skipgraph.errors import PlanError, UsageError
from skipgraph_cli.guard import say
from skipgraph_cli.models import load_source
from skipgraph_cli.options import Force, OutputDirectory, Quiet, Weights
from skipgraph_cli.output import our_output_only, read_text
from skipgraph_cli.progress import progress


def undo(
    directory: Annotated[Path, typer.Argument(metavar="DIR", help="What rewrite or apply has written.")],
    output: OutputDirectory,
    weights: Weights = None,
    original_weights: Annotated[
        Path | None,
        typer.Option(
            "--original-weights", metavar="FILE", help="Layers were factored: take them from the original's weights."
        ),
    ] = None,
    projected: Annotated[
        bool,
        typer.Option("--projected", help="Layers were factored: keep that, with concats of what is projected."),
    ] = False,
    force: Force = False,
    quiet: Quiet = False,
) -> None:
    """Take a rewrite back, by the algebra and with the present weights.

    Layers of lower rank do not tell what they were: with --original-weights they are whole again, with --projected the
    sums become concats of what is projected, which compute the same.

    \b
    Examples:
      skipgraph undo out -o original
      skipgraph undo out --weights fine_tuned.safetensors -o original
      skipgraph undo out --original-weights best.safetensors -o original
      skipgraph undo out --projected -o concats
    """  # noqa: D301
    if projected and original_weights is not None:
        raise UsageError("--projected and --original-weights are two ways back", "Give one of them.")
    with our_output_only(), progress(f"Undoing {directory}", quiet=quiet):
        from skipgraph.emit import emitted
        from skipgraph.emit.directory import check_directory, write_directory
        from skipgraph.plan import Plan
        from skipgraph.rewriting import captured, rejoin
        from skipgraph.rewriting import undo as undone

        check_directory(output, force=force)
        if not (directory / "plan.json").is_file():
            raise PlanError(f"{directory} has no plan.json", "Give a directory that rewrite or apply has written.")
        if not (directory / "model.py").is_file():
            raise PlanError(f"{directory} holds an ONNX file, which is not taken back", "Use the file it was made of.")
        plan = Plan.from_json(read_text(directory / "plan.json"))
        given = weights or directory / "weights.safetensors"
        source = load_source(str(directory / "model.py"), None, given, False, "cpu", None, 0)
        inputs = (tuple(source.args), dict(source.kwargs))
        model = captured(source.model, inputs)
        if projected:
            new = rejoin(model, plan)
            title = f"{directory} with concats of what is projected in the place of sums of it."
        else:
            new = undone(model, plan, weights=original_weights)
            title = f"{plan.spec or 'The original'}, as it was before {directory} was made of it."
        write_directory(output, emitted(new, inputs, title=title).files | {"plan.json": plan.to_json()}, force=force)
    if not quiet:
        say(f"{output}: {len(plan.records[False])} rewritten merges taken back")

"""``skipgraph undo DIR``: the original again, from the weights that the rewritten model has now."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from skipgraph.errors import PlanError
from skipgraph_cli.guard import say
from skipgraph_cli.models import load_source
from skipgraph_cli.options import Force, OutputDirectory, Quiet, Weights
from skipgraph_cli.output import our_output_only, read_text
from skipgraph_cli.progress import progress


def undo(
    directory: Annotated[Path, typer.Argument(metavar="DIR", help="What rewrite or apply has written.")],
    output: OutputDirectory,
    weights: Weights = None,
    force: Force = False,
    quiet: Quiet = False,
) -> None:
    """Take a rewrite back, by the algebra and with the present weights.

    \b
    Examples:
      skipgraph undo out -o original
      skipgraph undo out --weights fine_tuned.safetensors -o original
    """  # noqa: D301
    with our_output_only(), progress(f"Undoing {directory}", quiet=quiet):
        from skipgraph.emit import emitted
        from skipgraph.emit.directory import check_directory, write_directory
        from skipgraph.plan import Plan
        from skipgraph.rewriting import captured
        from skipgraph.rewriting import undo as undone

        check_directory(output, force=force)
        if not (directory / "plan.json").is_file():
            raise PlanError(f"{directory} has no plan.json", "Give a directory that rewrite or apply has written.")
        plan = Plan.from_json(read_text(directory / "plan.json"))
        given = weights or directory / "weights.safetensors"
        source = load_source(str(directory / "model.py"), None, given, False, "cpu", None, 0)
        inputs = (tuple(source.args), dict(source.kwargs))
        original = undone(captured(source.model, inputs), plan)
        title = f"{plan.spec or 'The original'}, as it was before {directory} was made of it."
        write_directory(
            output, emitted(original, inputs, title=title).files | {"plan.json": plan.to_json()}, force=force
        )
    if not quiet:
        say(f"{output}: {len(plan.records[False])} rewritten merges taken back")

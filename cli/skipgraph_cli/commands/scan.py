"""``skipgraph scan SPEC…``: many models priced into one table."""

from __future__ import annotations

import os
import re
import shutil
import sys
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from skipgraph.errors import OutputError, UsageError
from skipgraph_cli.guard import say
from skipgraph_cli.options import SPEC_HELP, Dtype, Inputs, Json, OutputFile, Quiet, Seed, Train
from skipgraph_cli.output import (
    check_target,
    format_for,
    our_output_only,
    read_text,
    write_file,
    write_standard_output,
)
from skipgraph_cli.progress import progress

if TYPE_CHECKING:
    from skipgraph.scan import Row, Scan

_NOT_PRICED = 3
_SIZE = re.compile(r"(\d+(?:\.\d+)?)\s*([kmgt]?)(i?)b?", re.IGNORECASE)
_PATTERN = "over SPECs, or what follows their first colon; * stands for anything. May be given more than once."


def scan(
    specs: Annotated[
        list[str] | None,
        typer.Argument(
            metavar="[SPEC]...", help=f"{SPEC_HELP} A - reads them from standard input.", show_default=False
        ),
    ] = None,
    zoo: Annotated[
        list[str] | None, typer.Option("--zoo", metavar="NAME", help="All models of timm, torchvision or hf.")
    ] = None,
    listing: Annotated[
        Path | None, typer.Option("--from", metavar="FILE", help="SPECs from a file: one a line, # starts a comment.")
    ] = None,
    only: Annotated[
        list[str] | None, typer.Option("--only", metavar="PATTERN", help=f"Nothing else: {_PATTERN}")
    ] = None,
    skip: Annotated[list[str] | None, typer.Option("--skip", metavar="PATTERN", help=f"Not these: {_PATTERN}")] = None,
    list_only: Annotated[bool, typer.Option("--list", help="Print the SPECs, and price none.")] = False,
    format: Annotated[
        str | None,
        typer.Option("--format", "-f", metavar="FORMAT", help="table (default), csv, parquet or json."),
    ] = None,
    json: Json = False,
    output: OutputFile = None,
    force: Annotated[bool, typer.Option("--force", help="Replace the file if it exists, and begin anew.")] = False,
    resume: Annotated[
        bool, typer.Option("--resume", help="Go on with a scan that was interrupted: FILE.journal has its rows.")
    ] = False,
    inputs: Inputs = None,
    dtype: Dtype = None,
    train: Train = False,
    seed: Seed = 0,
    workers: Annotated[
        int | None,
        typer.Option("--workers", metavar="N", min=1, help="Models at a time. Default: as many as there are cores."),
    ] = None,
    time_limit: Annotated[
        float, typer.Option("--time-limit", metavar="SECONDS", min=0, help="For one model; 0 is no limit.")
    ] = 300.0,
    memory_limit: Annotated[
        str, typer.Option("--memory-limit", metavar="SIZE", help="For one model: 4GB, 512MiB; 0 is no limit.")
    ] = "8GB",
    scheduler: Annotated[
        str | None,
        typer.Option("--scheduler", metavar="ADDRESS", help="A Dask cluster does the work: tcp://host:8786."),
    ] = None,
    timings: Annotated[
        bool, typer.Option("--timings", help="One column more: the seconds that each model took.")
    ] = False,
    strict: Annotated[bool, typer.Option("--strict", help="Exit with 3 if any model failed.")] = False,
    quiet: Quiet = False,
) -> None:
    """Price many models into one table.

    Each model has a process of its own: one that crashes, hangs or fills the memory costs its own row alone, which
    says so. Rows come in the order of the SPECs, and the same scan gives the same bytes, whoever does the work. An
    --input is for all models. With -o, rows are kept in FILE.journal until the table is written.

    The exit code is 0 if the table was written and any model was priced, though others failed; see --strict.

    \b
    Examples:
      skipgraph scan timm:resnet50 timm:vit_base_patch16_224 path/model.py
      skipgraph scan --zoo timm --only 'resnet*' --list
      skipgraph scan --zoo timm -o timm.parquet
      skipgraph scan --zoo timm -o timm.parquet --resume
      skipgraph scan --from models.txt --scheduler tcp://head:8786 -o models.csv
    """  # noqa: D301
    if json and format not in (None, "json"):
        raise UsageError(f"--json and --format {format} were both given", "Give one of them.")
    if resume and output is None:
        raise UsageError("--resume needs -o FILE: rows are kept beside it", "Give the file of the first scan.")
    if scheduler is not None and workers is not None:
        raise UsageError("--workers and --scheduler were both given", "The cluster has workers of its own.")
    from skipgraph.scan import FORMATS, Limits, Scan, Settings, check_format, render
    from skipgraph.scan.cluster import check_installed

    if scheduler is not None:
        check_installed()
    chosen = format_for(output, "json" if json else format, FORMATS)
    check_format(chosen)
    limits = Limits(time_limit or None, _bytes(memory_limit) or None)
    given = _given(specs or [], listing)
    if not given and not zoo:
        raise UsageError("no model is named", "Give SPECs, --from FILE or --zoo NAME.")
    if output is not None and not list_only:
        check_target(output, force=force)
    with Scan(Settings(tuple(inputs or ()), dtype, train, seed), limits) as one:
        found = _found(one, given, zoo or [], only or [], skip or [], quiet=quiet)
        if list_only:
            write_standard_output("\n".join(found))
            return
        rows = _rows(one, found, output, workers, scheduler, force=force, resume=resume, quiet=quiet)
    seen = output is None and sys.stdout.isatty()
    content = render(
        rows,
        chosen,
        timings=timings,
        color=seen and "NO_COLOR" not in os.environ,
        width=shutil.get_terminal_size().columns if seen else None,
    )
    if output is None:
        write_standard_output(content)
    else:
        write_file(output, content, force=force)
        _journal_of(output).unlink(missing_ok=True)
    _end(rows, strict=strict, quiet=quiet)


def _given(specs: list[str], listing: Path | None) -> list[str]:
    """The SPECs of the command line, of standard input in place of a ``-``, and of a file."""
    from skipgraph.scan import read

    found = [one for spec in specs for one in (read(sys.stdin.read()) if spec == "-" else [spec])]
    return [*found, *(read(read_text(listing)) if listing is not None else [])]


def _found(one: Scan, given: list[str], zoo: list[str], only: list[str], skip: list[str], *, quiet: bool) -> list[str]:
    """What is to be priced."""
    from skipgraph.scan import chosen

    with progress("Looking up names", quiet=quiet):
        known = [spec for name in zoo for spec in one.listed(name)]
        found = chosen([*given, *known], only, skip)
        one.check(found)
    return found


def _rows(
    one: Scan,
    specs: list[str],
    output: Path | None,
    workers: int | None,
    scheduler: str | None,
    *,
    force: bool,
    resume: bool,
    quiet: bool,
) -> list[Row]:
    from skipgraph.scan import Journal

    path = _journal_of(output) if output is not None else None
    if path is not None and path.exists() and not (resume or force):
        raise OutputError(
            f"{path} has rows of a scan that did not end", "Give --resume to go on with it, or --force to begin anew."
        )
    done = 0
    with progress(f"Scanning {len(specs)} models", quiet=quiet) as tell, Journal(path, resume=resume) as journal:

        def show(priced: int, models: int, failed: int) -> None:
            nonlocal done
            done = priced
            tell(f"{priced} of {models}" + (f", {failed} failed" if failed else ""))

        try:
            with our_output_only():
                return one.rows(specs, workers=workers, scheduler=scheduler, journal=journal, tell=show)
        except KeyboardInterrupt:
            if path is not None and done:
                say(f"{done} of {len(specs)} models are in {path}; go on with --resume")
            raise


def _journal_of(output: Path) -> Path:
    return output.with_name(f"{output.name}.journal")


def _bytes(text: str) -> int:
    """Bytes from 4GB, 512MiB or 1024.

    Raises
    ------
    UsageError
        If it cannot be read.
    """
    match = _SIZE.fullmatch(text.strip())
    if match is None:
        raise UsageError(f"the size {text!r} cannot be read", "Write it like 4GB or 512MiB.")
    number, prefix, binary = match.groups()
    return int(float(number) * (1024 if binary else 1000) ** " kmgt".index(prefix.lower() or " "))


def _end(rows: list[Row], *, strict: bool, quiet: bool) -> None:
    """Say how many models failed; exit with 3 if that matters."""
    failed = sum(row["status"] == "failed" for row in rows)
    if not quiet:
        why = " (see the column reason)" if failed else ""
        say(f"{len(rows) - failed} priced, {failed} failed{why}")
    if failed == len(rows) or (strict and failed):
        raise typer.Exit(_NOT_PRICED)

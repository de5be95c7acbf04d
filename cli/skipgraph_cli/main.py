"""The command line: ``skipgraph COMMAND …``.

Every module of `skipgraph_cli.commands` is a command, made by its function of the same name. None of them imports
PyTorch before it runs, so that help is instant.
"""

from __future__ import annotations

import importlib
import pkgutil
from typing import Annotated

import typer

from skipgraph import __version__
from skipgraph_cli import commands
from skipgraph_cli.guard import guarded

app = typer.Typer(
    name="skipgraph",
    add_completion=False,
    context_settings={"help_option_names": ["-h", "--help"]},
    no_args_is_help=True,
    pretty_exceptions_enable=False,
    rich_markup_mode=None,
)


def _show_version(wanted: bool) -> None:
    if wanted:
        typer.echo(f"skipgraph {__version__}")
        raise typer.Exit


@app.callback()
def main(
    version: Annotated[
        bool, typer.Option("--version", callback=_show_version, is_eager=True, help="Show the version and exit.")
    ] = False,
) -> None:
    """Find, classify, price and draw every skip connection of a PyTorch model."""


for _found in pkgutil.iter_modules(commands.__path__):
    _module = importlib.import_module(f"{commands.__name__}.{_found.name}")
    app.command(_found.name)(guarded(getattr(_module, _found.name)))


if __name__ == "__main__":
    app()

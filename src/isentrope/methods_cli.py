"""The command line of `isentrope methods`, as `cli.py` has that of the others."""

import sys
from typing import TYPE_CHECKING, Annotated

import typer

from isentrope.options import Json

if TYPE_CHECKING:
    from rich.console import Console

methods_app = typer.Typer(help="List the methods, show their keys, or certify them.", invoke_without_command=True)


@methods_app.callback()
def methods(context: typer.Context, as_json: Json = False) -> None:
    """List the methods, or show their keys."""
    if context.invoked_subcommand is None:
        from isentrope import reference

        raise typer.Exit(reference.list_methods(as_json, _console()))


@methods_app.command("show")
def methods_show(
    names: Annotated[list[str], typer.Argument(metavar="METHOD...", help="Methods to merge.", show_default=False)],
) -> None:
    """Show methods merged into one objective, and which of them set each key."""
    from isentrope import reference

    raise typer.Exit(reference.show_method(names, _console()))


@methods_app.command("matrix")
def methods_matrix(as_json: Json = False) -> None:
    """Show which methods can be merged, and why others cannot."""
    from isentrope import reference

    raise typer.Exit(reference.show_matrix(as_json, _console()))


@methods_app.command("certify")
def methods_certify(
    names: Annotated[list[str] | None, typer.Argument(metavar="[METHOD]...", help="Presets; default: all.")] = None,
    as_json: Json = False,
) -> None:
    """Train a small batch by every division among ranks and micro-batches; ends with 1 if any result differs."""
    from isentrope.certify import certify

    raise typer.Exit(certify(names or [], as_json, _console()))


def _console() -> "Console":
    from rich.console import Console

    return Console(file=sys.stdout)

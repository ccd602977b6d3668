"""The command line of `isentrope dlq`, as `cli.py` has that of the others."""

import sys
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from isentrope.options import Authorities, Insecure, Json, PasswordFile, Redis, Run, UnseenRun

if TYPE_CHECKING:
    from rich.console import Console

dlq_app = typer.Typer(help="Dead letters: batches that killed the ranks, and the way back.", no_args_is_help=True)

Letter = Annotated[str, typer.Argument(help="Its name, or the first characters of it.", show_default=False)]


@dlq_app.command("list")
def list_(
    run: Run = None,
    redis: Redis = "",
    name: UnseenRun = "",
    as_json: Json = False,
    password_file: PasswordFile = "",
    ca: Authorities = "",
    insecure: Insecure = False,
) -> None:
    """List the dead letters of a run."""
    from isentrope import dlq
    from isentrope.run_place import RunPlace

    place = RunPlace(run or Path(), redis, name, password_file, ca, insecure)
    raise typer.Exit(dlq.list_letters(place, as_json, _console()))


@dlq_app.command()
def show(
    letter: Letter,
    run: Run = None,
    redis: Redis = "",
    name: UnseenRun = "",
    as_json: Json = False,
    password_file: PasswordFile = "",
    ca: Authorities = "",
    insecure: Insecure = False,
) -> None:
    """Show the groups of a dead letter."""
    from isentrope import dlq
    from isentrope.run_place import RunPlace

    place = RunPlace(run or Path(), redis, name, password_file, ca, insecure)
    raise typer.Exit(dlq.show_letter(place, letter, as_json, _console()))


@dlq_app.command()
def requeue(
    letter: Letter,
    run: Run = None,
    seq: Annotated[list[int] | None, typer.Option(help="Group of it; repeat it for several. Default: all.")] = None,
    redis: Redis = "",
    name: UnseenRun = "",
    as_json: Json = False,
    password_file: PasswordFile = "",
    ca: Authorities = "",
    insecure: Insecure = False,
) -> None:
    """Order groups of a dead letter again: at once, or when the same command continues the run."""
    from isentrope import dlq
    from isentrope.run_place import RunPlace

    place = RunPlace(run or Path(), redis, name, password_file, ca, insecure)
    raise typer.Exit(dlq.requeue(place, letter, seq or [], as_json, _console()))


def _console() -> "Console":
    from rich.console import Console

    return Console(file=sys.stdout)

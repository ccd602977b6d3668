"""The command line of what is done with a model outside a run, as `cli.py` has that of the other commands."""

import sys
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from isentrope.options import Json, Overrides, RunFile

if TYPE_CHECKING:
    from rich.console import Console


def add_to(app: typer.Typer) -> None:
    """Add the commands."""
    app.command()(export)
    app.command("eval")(evaluate)
    app.command()(score)


def export(
    run: Annotated[Path, typer.Argument(metavar="RUN", help="Folder of the run, or its run file.", show_default=False)],
    folder: Annotated[Path, typer.Argument(metavar="DIR", help="Folder to make.", show_default=False)],
    version: Annotated[str, typer.Option(help="Batch, or version as `status` shows it; default: the newest.")] = "",
    model: Annotated[str, typer.Option(help="Model the run began with; default: what the run's folder says.")] = "",
    as_json: Json = False,
) -> None:
    """Write a version of a run as a model folder that transformers and vLLM open, and a run can start from."""
    from isentrope import commands
    from isentrope.model_folder import Wanted

    raise typer.Exit(commands.export_version(Wanted(run, folder, version, model), as_json, _console()))


def evaluate(
    place: Annotated[Path, typer.Argument(metavar="MODEL|RUN", help="Model folder; or a run's folder or run file.")],
    overrides: Overrides = None,
    data: Annotated[str, typer.Option(help="File or task:NAME; default: the run's held-out data.")] = "",
    samples: Annotated[int | None, typer.Option(help="Responses to each prompt; default: as in the run.")] = None,
    version: Annotated[str, typer.Option(help="Batch or version of a run; default: the newest.")] = "",
    as_json: Json = False,
) -> None:
    """Evaluate a model, or a version of a run, on held-out prompts: pass@k and rewards."""
    from isentrope import commands
    from isentrope.evaluation import Request

    request = Request(place, data, samples, version, tuple(overrides or ()))
    raise typer.Exit(commands.evaluate(request, as_json, _console()))


def score(
    run_file: RunFile,
    overrides: Overrides = None,
    samples: Annotated[int | None, typer.Option(help="Responses to each prompt; default: sampling.group_size.")] = None,
    as_json: Json = False,
) -> None:
    """Score every training prompt: pass rate, entropy of the answers and length, written beside the data."""
    from isentrope import data_scores

    request = data_scores.Request(run_file, samples, tuple(overrides or ()))
    raise typer.Exit(data_scores.score(request, as_json, _console()))


def _console() -> "Console":
    from rich.console import Console

    return Console(file=sys.stdout)

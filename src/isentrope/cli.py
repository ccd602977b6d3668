"""The command line: flags, help, and errors as three lines. Everything else is loaded by the command that needs it."""

import sys
import traceback
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from isentrope import model_cli, options
from isentrope.dlq_cli import dlq_app
from isentrope.methods_cli import methods_app
from isentrope.options import Authorities, Insecure, Json, Overrides, PasswordFile, Redis, Run, RunFile, UnseenRun

if TYPE_CHECKING:
    from rich.console import Console

    from isentrope.errors import IsentropeError

BUG = 70
"""Exit code of an error of this program."""

HELP = "Reinforcement learning of language models with entropy control: vLLM actors, Redis, DeepSpeed learner."

app = typer.Typer(help=HELP, no_args_is_help=True, pretty_exceptions_enable=False, rich_markup_mode="rich")
app.add_typer(methods_app, name="methods")
app.add_typer(dlq_app, name="dlq")
model_cli.add_to(app)
bench_app = typer.Typer(help="Measure parts of this program.", no_args_is_help=True)
app.add_typer(bench_app, name="bench")


def _show_version(asked: bool) -> None:
    if asked:
        from isentrope import __version__

        typer.echo(f"isentrope {__version__}")
        raise typer.Exit


@app.callback()
def _common(
    debug: Annotated[bool, typer.Option("--debug", help="Show tracebacks of errors.")] = False,
    version: Annotated[
        bool, typer.Option("--version", callback=_show_version, is_eager=True, help="Show the version, and end.")
    ] = False,
) -> None:
    _Debug.on = debug


class _Debug:
    """Switch that shows errors with their tracebacks."""

    on = False


@app.command()
def demo(
    method: Annotated[list[str] | None, typer.Option(help="Method; repeat it to merge several.")] = None,
    mode: Annotated[str | None, typer.Option(help="async or on_policy.")] = None,
    batches: Annotated[int | None, typer.Option(help="Batches to train; default 80.")] = None,
    seed: Annotated[int | None, typer.Option(help="Seed of prompts and sampling; default 0.")] = None,
    actors: Annotated[int | None, typer.Option(help="Rollout actors; default 1.")] = None,
    ranks: Annotated[int | None, typer.Option(help="Learner ranks; default 2.")] = None,
    output_dir: Annotated[Path | None, typer.Option(help="Folder of the run; default: a new one under runs/.")] = None,
) -> None:
    """Teach a tiny model to solve a task on this machine's CPU, in a few minutes, and write a report."""
    from isentrope import commands
    from isentrope.demo.recipe import Options

    options = Options(tuple(method) if method else None, mode, batches, seed, actors, ranks)
    raise typer.Exit(commands.demo(options, output_dir, _console()))


@app.command()
def init(
    example: Annotated[str, typer.Argument(metavar="[EXAMPLE]", help="Its name; without one, list them.")] = "",
    folder: Annotated[Path | None, typer.Argument(help="Where to; default: a folder of its name.")] = None,
    as_json: Json = False,
) -> None:
    """Write an example into a new folder: run file, reward, data, and a model to start from."""
    from isentrope import commands

    raise typer.Exit(commands.init(example, folder, as_json, _console()))


@app.command()
def train(
    run_file: RunFile,
    overrides: Overrides = None,
    ray_address: Annotated[str, typer.Option(help="HOST:PORT of a running Ray cluster; default: a local Ray.")] = "",
    only: options.Only = "",
    groups: options.Groups = None,
    begin_from: options.BeginFrom = None,
    stopped_code: options.StoppedCode = 0,
) -> None:
    """Train by a run file; the same command continues a run that was stopped."""
    from isentrope import commands, kept_training

    given = [*(overrides or []), *commands.beginning(begin_from)]
    request = commands.Training(run_file, given, ray_address, only, groups, stopped_code)
    kept = only == "train" or groups is not None
    raise typer.Exit((kept_training if kept else commands).train(request, _console()))


@app.command()
def check(run_file: RunFile, overrides: Overrides = None, as_json: Json = False) -> None:
    """Find mistakes in a run file and in what it points to, without starting anything."""
    from isentrope.checking import check_file

    raise typer.Exit(check_file(run_file, overrides or [], as_json, _console()))


@app.command()
def plan(
    run_file: RunFile,
    overrides: Overrides = None,
    gpus: Annotated[str, typer.Option(metavar="SIZE", help="Memory of one GPU, as 80GB; default: not compared.")] = "",
    disk: Annotated[str, typer.Option(metavar="SPEED", help="Speed at which files are written.")] = "1GB/s",
    network: Annotated[str, typer.Option(metavar="SPEED", help="Speed at which a machine fetches.")] = "1GB/s",
    tokens_per_second: Annotated[float | None, typer.Option(min=0.001, help="Of one actor; default: measured.")] = None,
    learner_tokens_per_second: Annotated[
        float | None, typer.Option(min=0.001, help="Of the learner while it does not wait; default: measured.")
    ] = None,
    measured: Annotated[
        Path | None, typer.Option(metavar="RUN", help="Run to take lengths and rates from; default: the longest.")
    ] = None,
    as_json: Json = False,
) -> None:
    """Tell what a run will need: bytes, memory, time of a publication, actors. Starts nothing."""
    from isentrope import commands
    from isentrope.capacity.request import Request

    request = Request(
        run_file, overrides or [], gpus, disk, network, tokens_per_second, learner_tokens_per_second, measured
    )
    raise typer.Exit(commands.plan_capacity(request, as_json, _console()))


@app.command()
def status(
    run: Run = None,
    as_json: Json = False,
    watch: Annotated[bool, typer.Option("--watch", help="Show it again every two seconds until the run ends.")] = False,
) -> None:
    """Show what a run is doing and what it waits for."""
    from isentrope import commands

    raise typer.Exit(commands.show_status(run or Path(), as_json, _console(), watch))


@app.command()
def runs(
    folder: Annotated[Path, typer.Argument(help="Where to look, and in its runs/; default: here.")] = Path(),
    as_json: Json = False,
) -> None:
    """List the runs of a folder: running, finished, stopped, ended by an error, dead or damaged."""
    from isentrope.runs import list_runs

    raise typer.Exit(list_runs(folder, as_json, _console()))


@app.command()
def logs(
    run: Run = None,
    name: Annotated[str, typer.Option("--of", help="One log, such as learner-0; default: all.")] = "",
    lines: Annotated[int, typer.Option("--lines", "-n", min=0, help="Lines of each log.")] = 10,
    follow: Annotated[bool, typer.Option("--follow", "-f", help="Go on with what is added, until it ends.")] = False,
) -> None:
    """Show the last lines of what each process of a run has logged."""
    from isentrope.log_lines import show_logs

    raise typer.Exit(show_logs(run or Path(), name, lines, follow, _console()))


@app.command()
def stop(
    run: Run = None,
    timeout: Annotated[float, typer.Option(min=0, help="Seconds to wait for its end.")] = 600.0,
    as_json: Json = False,
) -> None:
    """Ask a run to end as Ctrl-C does: it finishes its batch, saves, and the same command continues it."""
    from isentrope.stopping import stop as stop_run

    raise typer.Exit(stop_run(run or Path(), timeout, as_json, _console()))


@app.command()
def mode(
    mode: Annotated[str, typer.Argument(metavar="async|on_policy", help="Mode to switch to.", show_default=False)],
    run: Run = None,
    as_json: Json = False,
) -> None:
    """Switch a running run between asynchronous and exact on-policy training."""
    from isentrope import commands

    raise typer.Exit(commands.switch_mode(mode, run or Path(), _console(), as_json))


@app.command()
def scale(
    change: Annotated[
        str, typer.Argument(metavar="actors=N|+K|-K", help="Number, or how many more or fewer.", show_default=False)
    ],
    run: Run = None,
    redis: Redis = "",
    name: UnseenRun = "",
    external: Annotated[
        bool, typer.Option("--external", help="Ask actors to leave that were joined by `isentrope actor`.")
    ] = False,
    as_json: Json = False,
    password_file: PasswordFile = "",
    ca: Authorities = "",
    insecure: Insecure = False,
) -> None:
    """Set the number of actors of a running run; it stays, also for the next command of the run."""
    from isentrope import scale as scaling
    from isentrope.run_place import RunPlace

    request = scaling.Scaling(RunPlace(run or Path(), redis, name, password_file, ca, insecure), change, external)
    raise typer.Exit(scaling.scale(request, as_json, _console()))


@app.command()
def replay(
    run: Annotated[Path, typer.Argument(metavar="RUN", help="Folder of the run, or its run file.", show_default=False)],
    to: Annotated[int | None, typer.Option(help="Batches of a checkpoint; default: the newest one's.")] = None,
    begin: Annotated[str, typer.Option("--from", help="Checkpoint to start from; default: the model itself.")] = "",
    model: Annotated[str, typer.Option(help="Model the run began with; default: what the run's folder says.")] = "",
    as_json: Json = False,
) -> None:
    """Train again what a run has kept, and compare with its checkpoints to the bit; needs learner.retain."""
    from isentrope import replaying

    raise typer.Exit(replaying.replay(replaying.Request(run, to, begin, model), as_json, _console()))


@app.command()
def compare(
    runs: Annotated[
        list[str],
        typer.Argument(
            metavar="RUN...",
            help="Folders of runs; with --method RUN.toml and KEY=VALUE, to train it first.",
            show_default=False,
        ),
    ],
    method: Annotated[
        list[str] | None, typer.Option(metavar="A|B+C", help="Train by this method; give it twice or more.")
    ] = None,
    seeds: Annotated[int, typer.Option(help="With --method: seeds of each, from run.seed on.")] = 1,
    output: Annotated[
        Path | None, typer.Option(help="With --method: folder of the runs; default: runs/NAME-comparison.")
    ] = None,
    page: Annotated[
        Path | None, typer.Option(help="Page to write; default: comparison.html, with --method in their folder.")
    ] = None,
    as_json: Json = False,
    stopped_code: options.StoppedCode = 0,
) -> None:
    """Compare runs of several methods and seeds, and train them first if --method is given: a page with verdicts."""
    if method:
        from isentrope.comparison.launching import Request, launch

        request = Request(Path(runs[0]), method, seeds, runs[1:], output, page, stopped_code)
        raise typer.Exit(launch(request, as_json, _console()))
    from isentrope.compare import PAGE, compare_folders

    launches = [name for name, given in (("--output", output is not None), ("--seeds", seeds != 1)) if given]
    raise typer.Exit(compare_folders(runs, launches, page or Path(PAGE), as_json, _console()))


@app.command()
def actor(
    run: Annotated[str, typer.Option(help="Name of the run.", show_default=False)],
    redis: Redis = "",
    password_file: PasswordFile = "",
    name: Annotated[str, typer.Option(help="Name of this actor; default: host, process id and a random end.")] = "",
    depot: Annotated[str, typer.Option(help="URL of the run's depot; default: as the run announces.")] = "",
    cache: Annotated[Path, typer.Option(help="Folder that keeps fetched files; default: the user's cache.")] = Path(),
    ca: Annotated[str, typer.Option(help="PEM file of authorities for rediss and https; default: the system's.")] = "",
    insecure: Insecure = False,
    per_gpu: options.PerGpu = False,
    stopped_code: options.StoppedCode = 0,
) -> None:
    """Join a run as one more rollout actor, from anywhere, without Ray; it leaves with 0 when the run ends."""
    from isentrope.joining import JoinOptions, join, join_per_gpu

    asked = JoinOptions(run, redis, password_file, name, depot, cache, ca, insecure, stopped_code)
    raise typer.Exit(join_per_gpu(asked) if per_gpu else join(asked))


@app.command()
def depot(
    run: Annotated[Path, typer.Argument(metavar="RUN", help="Folder of the run, or its run file.", show_default=False)],
    bind: Annotated[str, typer.Option(metavar="ADDR:PORT", help="Address to listen at.", show_default=False)],
    cert: Annotated[str, typer.Option(help="Certificate, PEM; default: plain HTTP.")] = "",
    key: Annotated[str, typer.Option(help="Its key, PEM; default: in the certificate's file.")] = "",
    insecure: Annotated[bool, typer.Option("--insecure", help="Serve other hosts without a token.")] = False,
) -> None:
    """Offer a run's published files over HTTP, read only, to actors that do not see its folder."""
    from isentrope.joining import DepotOptions, serve_depot

    raise typer.Exit(serve_depot(run, DepotOptions(bind, cert, key, insecure), _console()))


@app.command()
def exporter(
    run: Run = None,
    redis: Redis = "",
    name: UnseenRun = "",
    bind: Annotated[str, typer.Option(metavar="ADDR:PORT", help="Address to listen at.")] = "127.0.0.1:9464",
    password_file: PasswordFile = "",
    ca: Authorities = "",
    insecure: Insecure = False,
) -> None:
    """Offer a run's metrics to Prometheus, from any machine that reaches its broker."""
    from isentrope.exporter.serving import export
    from isentrope.run_place import RunPlace

    raise typer.Exit(export(RunPlace(run or Path(), redis, name, password_file, ca, insecure), bind, _console()))


@app.command("help")
def help_(
    name: Annotated[str, typer.Argument(metavar="[KEY]", help="Key, stage, output, method or exit code.")] = "",
    as_json: Json = False,
) -> None:
    """Explain a key of the run file, a stage, an output, a method or an exit code; without one, list them all."""
    from isentrope import reference

    raise typer.Exit(reference.explain(name, as_json, _console()))


@bench_app.command(
    "kernels", context_settings={"allow_extra_args": True, "ignore_unknown_options": True}, add_help_option=False
)
def bench_kernels(context: typer.Context) -> None:
    """Compare the fused kernels with public ones; `--help` lists the options."""
    from isentrope.kernels import bench

    raise typer.Exit(bench.main(context.args))


def main() -> None:
    """Run the program: a mistake of the user becomes three lines and an exit code, a bug becomes a traceback."""
    try:
        app()
    except Exception as error:
        from isentrope.rollout.wire.plain_text import inactive

        mistakes = _mistakes(error)
        if _Debug.on or not mistakes:
            traceback.print_exc()
        for mistake in mistakes:
            typer.echo(f"error: {inactive(str(mistake))}", err=True)
        sys.exit(mistakes[0].exit_code if mistakes else BUG)


def _mistakes(error: Exception) -> list["IsentropeError"]:
    """Return the errors to show the user; none if any of them is a bug."""
    from isentrope.check.install import explained
    from isentrope.errors import IsentropeError

    errors = error.exceptions if isinstance(error, ExceptionGroup) else (error,)
    told = [error if isinstance(error, IsentropeError) else explained(error) for error in errors]
    known = [error for error in told if error is not None]
    return known if len(known) == len(errors) else []


def _console() -> "Console":
    from rich.console import Console

    return Console(file=sys.stdout)


if __name__ == "__main__":
    main()

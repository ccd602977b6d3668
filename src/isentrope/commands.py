"""The commands, each from its arguments to its exit code. The command line (`cli`) parses the arguments and shows
errors."""

import asyncio
import contextlib
import dataclasses
import functools
import itertools
import json
import logging
import time
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, TypeAlias

from rich.console import Console

from isentrope import runfolder
from isentrope.check import install
from isentrope.check.findings import Checked, check
from isentrope.check.model import Model
from isentrope.checking import show_notes
from isentrope.config import accept, load
from isentrope.console import say, tell, working
from isentrope.environment import set_defaults
from isentrope.errors import (
    AccessError,
    AlarmError,
    ConfigError,
    DataError,
    FencedError,
    InternalError,
    IsentropeError,
    RunFolderError,
    StalledError,
    StorageError,
    UnreachableError,
)
from isentrope.launch.model import ModelPlan
from isentrope.launch.plan import ClaimedRun
from isentrope.learner.records import EvalRow, Outcome
from isentrope.progress import Progress, Shown
from isentrope.resolved import resolve
from isentrope.rollout.broker.access import Role
from isentrope.rollout.data.tasks.digit_walk import VOCABULARY
from isentrope.rollout.wire.control import Mode
from isentrope.runfile import from_values, raise_all
from isentrope.runfolder import RunFolder
from isentrope.toml_text import toml_value

if TYPE_CHECKING:
    from isentrope.capacity.request import Request as CapacityRequest
    from isentrope.demo.recipe import Options
    from isentrope.evaluation import Request
    from isentrope.model_folder import Wanted

MODE_TIMEOUT_S = 600.0
"""Time limit of the learner's answer, which it gives at its next batch."""

WATCH_S = 2.0

ROLLOUT = "rollout"
"""Part of training that makes and keeps groups."""

INTERRUPTED = 130

logger = logging.getLogger(__name__)

Drive: TypeAlias = Callable[[ClaimedRun, Progress], Outcome]
"""Function that starts a run, and returns when it has ended."""

_BY_EXIT_CODE: dict[int, type[IsentropeError]] = {
    kind.exit_code: kind
    for kind in (
        ConfigError,
        DataError,
        UnreachableError,
        InternalError,
        RunFolderError,
        StorageError,
        FencedError,
        AccessError,
        StalledError,
        AlarmError,
    )
}


def init(name: str, folder: Path | None, as_json: bool, console: Console) -> int:
    """Write an example and tell how to go on; without a name, list them."""
    from isentrope.init import examples, write

    if not name:
        known = examples()
        if as_json:
            console.print_json(json.dumps([dataclasses.asdict(example) for example in known]))
            return 0
        for example in known:
            say(console, f"{example.name:12} {example.sentence}")
        return 0
    set_defaults(offline=True)
    folder = folder or Path(name)
    with working(console, "data and model: they are made in half a minute the first time", quiet=as_json):
        example = write(name, folder)
    if as_json:
        return tell(console, as_json, "", dataclasses.asdict(example) | {"folder": str(folder)})
    say(console, f"{folder} holds the example. Go on with:\n")
    for command in (f"cd {folder}", *example.commands):
        say(console, f"    {command}")
    return 0


@dataclasses.dataclass(frozen=True, slots=True)
class Training:
    """Arguments of `isentrope train`. part: value of `--only`: empty, `train`, or `rollout` to make and keep groups
    without training. groups: folder or run file of the run that has kept those to be trained; None: not given."""

    run_file: Path
    overrides: Sequence[str]
    ray_address: str = ""
    part: str = ""
    groups: Path | None = None
    stopped_code: int = 0


def beginning(run: Path | None) -> list[str]:
    """Return the change of the run file that `--from` makes; none if it was not given.

    Raises:
        RunFolderError: there is no such run.
    """
    return [] if run is None else [f"learner.begin_from={toml_value(str(runfolder.find(run).resolve()))}"]


def train(request: Training, console: Console) -> int:
    """Run a run file to its end, or continue where an earlier command of the same run stopped."""
    started, only = time.time(), request.part
    if only not in ("", ROLLOUT):
        raise ConfigError(f"there is no part {only!r} of training", where="--only", fix=f"train, or {ROLLOUT}")
    set_defaults()
    config, file = load(request.run_file, request.overrides)
    if only and config.learner.retain != "groups":
        raise ConfigError(
            f"--only {ROLLOUT} makes groups to keep, and learner.retain = {config.learner.retain!r} keeps none",
            where=file.where("learner.retain"),
            fix="set learner.retain = groups",
        )
    if only and config.learner.begin_from:
        raise ConfigError(
            f"--only {ROLLOUT} trains nothing, and learner.begin_from names a run whose training is to go on",
            where=file.where("learner.begin_from"),
            fix="make groups with the weights of that run: model.path is the folder final in its own",
        )
    checked = check(config, file)
    show_notes(checked.notes, console)
    with claim(checked, config.output_dir(file.path.parent), only) as folder:
        if folder.is_finished(config.learner.batches):
            return tell_finished(folder, console)
        run = ClaimedRun(checked, folder, started, request.ray_address, only=only, stopped_code=request.stopped_code)
        return _run(run, console)


def tell_finished(folder: RunFolder, console: Console) -> int:
    """Print that nothing is left to train."""
    say(console, f"the run in {folder.path} is finished; raise learner.batches to train longer")
    return 0


def demo(options: "Options", output_dir: Path | None, console: Console) -> int:
    """Make the demo's model, run its recipe and write the report; continue a run that was stopped."""
    started = time.time()
    set_defaults(offline=True)
    raise_all(list(install.missing("cluster", "learner", "actor")))  # the recipe already needs torch
    from isentrope.demo.model import WEIGHTS, is_cached, make_model, write_skeleton
    from isentrope.demo.recipe import MODEL_FOLDER

    checked, folder = _place_demo(options, output_dir)
    show_notes(checked.notes, console)
    with folder:
        model, plan = folder.path / MODEL_FOLDER, None
        if is_cached():
            make_model(model)
        else:
            write_skeleton(model)
            plan = ModelPlan(model / WEIGHTS, functools.partial(make_model, model))
        return _run(ClaimedRun(checked, folder, started, model=plan), console)


def plan_capacity(request: "CapacityRequest", as_json: bool, console: Console) -> int:
    """Print what a run will need."""
    set_defaults()
    from isentrope.capacity.request import answer, show

    show(answer(request), as_json, console)
    return 0


def switch_mode(mode: str, run: Path, console: Console, as_json: bool = False) -> int:
    """Ask the learner for another mode, and wait for its answer."""
    if mode not in list(Mode):
        raise ConfigError(f"there is no mode {mode!r}", fix=f"one of {', '.join(Mode)}")
    record = runfolder.read_record(runfolder.find(run))
    view = runfolder.open_view(record, Role.OPERATOR, deadline_s=10.0)
    with contextlib.closing(view.broker):
        control = view.control()
        if control is None:
            raise UnreachableError(f"no learner has opened run {record.run!r} yet", fix="try again when it trains")
        asked = view.request(Mode(mode).value)
        deadline = time.monotonic() + MODE_TIMEOUT_S
        with working(console, f"the learner of {record.run}, which answers at its next batch", quiet=as_json):
            while (control := view.control()) is None or control.served != asked:
                if time.monotonic() > deadline:
                    raise StalledError(f"the learner of {record.run!r} has not answered for {MODE_TIMEOUT_S:.0f} s")
                newest = view.newest_request()
                if control is not None and not newest:  # the broker came back empty
                    asked = view.request(Mode(mode).value)
                elif newest not in ("", asked):
                    raise ConfigError("another request has replaced this one", fix="see `isentrope status`; try again")
                time.sleep(0.2)
        if control.mode != mode:
            raise ConfigError(f"the learner refused: {control.note}")
        facts = {"run": record.run, "mode": control.mode}
        return tell(console, as_json, f"{record.run} is {control.mode}", facts)


def show_status(run: Path, as_json: bool, console: Console, watch: bool = False) -> int:
    """Print what a run is doing; `watch`: again and again, as long as its command lives."""
    from isentrope.status import read_status, show

    folder = runfolder.find(run)
    while True:
        status = read_status(folder)
        if as_json:
            console.print_json(status.model_dump_json())
        else:
            if watch and console.is_terminal:
                console.clear()
            show(status, console)
        if not (watch and status.command_alive):
            return 0
        time.sleep(WATCH_S)


def export_version(wanted: "Wanted", as_json: bool, console: Console) -> int:
    """Write a version of a run's weights as a model folder, and print which it is."""
    set_defaults()
    from isentrope.model_folder import choose, export, origin, versions

    folder = runfolder.find(wanted.run)
    begun = origin(folder, wanted.model)
    chosen = choose(versions(folder), wanted.version, folder)
    export(chosen, begun, wanted.target)
    facts = {"folder": str(wanted.target), "batch": chosen.batch, "version": chosen.version, "run": str(folder)}
    return tell(console, as_json, f"{wanted.target}: batch {chosen.batch} of {folder}", facts)


def evaluate(request: "Request", as_json: bool, console: Console) -> int:
    """Evaluate a model on held-out prompts, and print the figures."""
    set_defaults()
    from isentrope import evaluation

    prepared = evaluation.prepare(request)
    with working(console, f"the engine of {prepared.manifest.folder} to start and to answer", quiet=as_json) as show:
        told = evaluation.evaluate(prepared, lambda done, count: show(f"{done} of {count} prompts are answered"))
        rows = asyncio.run(told)
    if as_json:
        facts = [row.to_json() for row in rows]
        console.print_json(json.dumps(facts[0] if len(facts) == 1 else facts))
        return 0
    for row in rows:
        wanted = sum(order.name == row.name for order in prepared.orders)
        name = "" if len(rows) == 1 else f"{row.name}: "
        say(console, f"{prepared.manifest.folder}: {name}{row.prompts} of {wanted} prompts, {row.samples} samples")
        _say_figures(row, console)
    return 0


def _say_figures(row: EvalRow, console: Console) -> None:
    lines = {f"pass@{k}": f"{share:.3f}" for k, share in row.pass_at.items()} | {"mean reward": f"{row.reward:.3f}"}
    means = {name: each.mean for name, each in row.rewards.items() if len(row.rewards) > 1}
    lines |= {name: "did not apply" if mean is None else f"{mean:.3f}" for name, mean in means.items()}
    lines |= {"tokens of a response": f"{row.length_mean:.1f}", "cut off": f"{row.truncated:.1%}"}
    for name, value in lines.items():
        say(console, f"  {name}: {value}")


def _place_demo(options: "Options", output_dir: Path | None) -> tuple[Checked, RunFolder]:
    """Return the demo in the first free folder: a finished run keeps its folder, a stopped one is continued."""
    from isentrope.demo import recipe

    first = output_dir or runfolder.RUNS / "demo"
    numbered = (first.with_name(f"{first.name}-{number}") for number in itertools.count(2))
    for path in map(Path.absolute, itertools.chain([first], numbered)):
        if runfolder.has_ended(path):
            continue
        values, changed = recipe.toy_scaled(recipe.table(path, options))
        config, file = accept(from_values(recipe.RUN_FILE.with_name("demo"), values))
        longest = config.model.max_model_len
        assert longest is not None, "the recipe sets it"
        checked = check(config, file, Model(config.model.path, len(VOCABULARY), longest))
        notes = [*(f"for the demo's size: {line}" for line in changed), *checked.notes]
        checked = dataclasses.replace(checked, notes=notes)
        try:
            return checked, claim(checked, path)
        except RunFolderError:
            if output_dir is not None:
                raise  # the given folder belongs to other options, or another command holds it
    raise AssertionError("unreachable")


def claim(checked: Checked, path: Path, only: str = "") -> RunFolder:
    """Return the folder of a checked run, which belongs to this command; errors as `RunFolder.claim`."""
    settings = resolve(checked.config, checked.file, path)
    return RunFolder.claim(
        path, config_digest=checked.digest, data_digest=checked.data_digest, resolved=settings, only=only
    )


def _run(run: ClaimedRun, console: Console) -> int:
    from isentrope.launch import driver

    return run_claimed(run, driver.drive, console)


def run_claimed(run: ClaimedRun, drive: Drive, console: Console) -> int:
    """Start a run by `drive`, which watches it, and print its result."""
    with Shown(console) as progress:
        outcome = run_shown(run, drive, progress)
    if outcome is None:
        return INTERRUPTED
    say(console, sentence(outcome))
    return run.stopped_code if outcome.status == "stopped" else 0


def run_shown(run: ClaimedRun, drive: Drive, progress: Progress) -> Outcome | None:
    """Start a run by `drive`, which watches it, and return how it has ended; None: it was interrupted twice."""
    try:
        outcome = drive(run, progress)
    except KeyboardInterrupt:
        progress.note("ended at once; the same command continues from the last checkpoint")
        return None
    except Exception as error:
        if run.folder.has_begun and not isinstance(error, FencedError):  # else the folder may be another learner's
            _record(run.folder.path, error)
            _leave_report(run.folder.path, progress)
        raise
    if outcome.status != "error" and outcome.batches and run.only != ROLLOUT:
        _leave_model(run, progress)
    _leave_report(run.folder.path, progress)
    if outcome.status == "error":
        raise _BY_EXIT_CODE.get(outcome.exit_code, InternalError)(outcome.what, where=outcome.where, fix=outcome.fix)
    return outcome


def _record(folder: Path, error: Exception) -> None:
    """Record the error that ended a run, if the learner has not."""
    known = error if isinstance(error, IsentropeError) else InternalError(f"{type(error).__name__}: {error}")
    with contextlib.suppress(OSError):  # the error itself is shown
        runfolder.record_error(folder, known)


def _leave_model(run: ClaimedRun, progress: Progress) -> None:
    """Write the newest version as a model folder, and say where. A failure does not change how the run has ended."""
    from isentrope.model_folder import FINAL, Origin, choose, export, versions

    folder = run.folder.path
    progress.waiting(["the model is written"])
    try:
        newest = choose(versions(folder), "", folder)
        export(newest, Origin(run.checked.model.path, run.checked.config.model), folder / FINAL, replace=True)
        progress.note(f"model: {folder / FINAL}, of batch {newest.batch}")
    except Exception as error:  # whatever the disk or the model's files hold
        logger.exception("no model folder")
        progress.note(f"no {FINAL}: {error}")


def _leave_report(folder: Path, progress: Progress) -> None:
    """Write the report, and say where. A failure does not change how the run has ended."""
    from isentrope import report

    progress.waiting(["the report is written"])
    try:
        progress.note(f"report: {report.write(folder)}")
    except Exception as error:  # whatever a file holds
        logger.exception("no report")
        progress.note(f"no report: {error}")


def sentence(outcome: Outcome) -> str:
    """Return how a run has ended, and what became of its groups."""
    reasons = ", ".join(f"{count} {reason}" for reason, count in sorted(outcome.retired.items()) if count)
    retired = f"{sum(outcome.retired.values())} retired" + (f" ({reasons})" if reasons else "")
    end = f"{outcome.status} after {outcome.batches} batches: "
    return end + f"{outcome.issued} groups issued = {outcome.trained} trained + {retired}"

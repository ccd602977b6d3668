"""`isentrope compare RUN.toml --method ...`: trains a run file by several methods and seeds, one run after another, and
compares them. The same command continues where an earlier one stopped."""

import functools
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from enum import Enum, auto
from pathlib import Path

from rich.console import Console

from isentrope import commands, runfolder
from isentrope.check.findings import Checked, check
from isentrope.checking import show_notes
from isentrope.comparison.live import LiveTable, Row, RunProgress
from isentrope.comparison.pins import Method, Pin, pins
from isentrope.comparison.place import Plan, claim, directory, run_folder, run_name
from isentrope.config import Config, accept, load
from isentrope.console import say
from isentrope.environment import set_defaults
from isentrope.errors import ConfigError, IsentropeError
from isentrope.launch.plan import ClaimedRun
from isentrope.learner.json_files import read_last
from isentrope.learner.records import BatchRow
from isentrope.runfile import RunFile, overridden, raise_all
from isentrope.runs import read_run
from isentrope.toml_text import toml_value

FACTS = "comparison.json"

LOG = "command.log"

MAX_SEEDS = 1000

OWN_KEYS = {"learner.method": "--method", "run.output_dir": "--output"}
"""Keys that the command sets for each run -> the option that says to what."""


class Ended(Enum):
    """End of the runs of a command."""

    FINISHED = auto()
    STOPPED = auto()
    INTERRUPTED = auto()


@dataclass(frozen=True, slots=True)
class Request:
    """Arguments of the command. output: None: beside the folder that the run file names. page: None: in that folder."""

    run_file: Path
    methods: Sequence[str]
    seeds: int
    overrides: Sequence[str] = ()
    output: Path | None = None
    page: Path | None = None
    stopped_code: int = 0


@dataclass(frozen=True, slots=True)
class Setting:
    """Settings that all runs of a comparison have in common."""

    file: RunFile
    config: Config
    pins: Sequence[Pin]
    folder: Path

    def checked(self, method: Method, seed: int) -> Checked:
        """Return the checked run of a method and a seed; errors as `check`."""
        changes = [
            method.override,
            *(pin.override for pin in self.pins),
            f"run.seed={seed}",
            f"run.name={run_name(self.config.run.name, method.name, seed)}",
            f"run.output_dir={toml_value(str(run_folder(self.folder, method.name, seed)))}",
        ]
        config, changed = accept(overridden(self.file, changes))
        return check(config, changed)


@dataclass(frozen=True, slots=True)
class Prepared:
    """A comparison that may start. checked: the first seed's run of each method."""

    setting: Setting
    methods: Sequence[Method]
    seeds: Sequence[int]
    checked: Sequence[Checked]

    @property
    def plan(self) -> Plan:
        """Contents of the folder's record."""
        return Plan(
            run=self.setting.config.run.name,
            first_seed=self.seeds[0],
            pins={pin.key: pin.value for pin in self.setting.pins},
            data_digest=self.checked[0].data_digest,
            digests={method.name: each.digest for method, each in zip(self.methods, self.checked, strict=True)},
        )

    @property
    def folders(self) -> list[Path]:
        """Folders of all runs, one method after another."""
        return [run_folder(self.setting.folder, method.name, seed) for method in self.methods for seed in self.seeds]

    @property
    def left(self) -> bool:
        """True if a run is not finished."""
        batches = self.setting.config.learner.batches
        return any(not runfolder.has_ended(each) or read_run(each).batch < batches for each in self.folders)


def launch(request: Request, as_json: bool, console: Console) -> int:
    """Train what is not trained yet, and compare all.

    Raises:
        IsentropeError: the request or a run file is wrong, the folder is another comparison's, or a run ended by it;
            several as an ExceptionGroup.
    """
    set_defaults()
    shown = Console(quiet=True) if as_json else console
    prepared = prepare(request)
    _tell(prepared, shown)
    claim(prepared.setting.folder, prepared.plan)
    try:
        ended = _train_with_ray(prepared, shown)
    except KeyboardInterrupt:
        ended = Ended.INTERRUPTED
    if ended is Ended.FINISHED:
        return _compare(prepared, request, as_json, console)
    say(shown, "the same command goes on")
    return request.stopped_code if ended is Ended.STOPPED else commands.INTERRUPTED


def _train_with_ray(prepared: Prepared, console: Console) -> Ended:
    """Train all runs by one Ray; a running cluster is joined by each run."""
    from isentrope.launch import driver
    from isentrope.launch.shared_ray import shared_ray

    if prepared.setting.config.cluster.ray or not prepared.left:
        return train_all(prepared, driver.drive, console)
    with shared_ray(prepared.setting.folder / LOG) as shared:
        drive = functools.partial(driver.drive, shared=shared)
        return train_all(prepared, drive, console, lambda: shared.interrupts.asked)


def prepare(request: Request) -> Prepared:
    """Check the request, and a run of each method.

    Raises:
        ConfigError: there are fewer than two methods, no seeds, or a key that the command sets.
        IsentropeError: a run file has a mistake, or a method cannot run with it; several as an ExceptionGroup.
    """
    methods = parse_methods(request.methods)
    if not 1 <= request.seeds <= MAX_SEEDS:
        raise ConfigError(f"--seeds {request.seeds} is not allowed", where="--seeds", fix=f"give 1 to {MAX_SEEDS}")
    for override in request.overrides:
        key = override.partition("=")[0].strip()
        if key in OWN_KEYS:
            raise ConfigError(f"{override!r} would be the same for all runs", where=key, fix=f"give {OWN_KEYS[key]}")
    config, file = load(request.run_file, request.overrides)
    pinned = pins(file, methods)
    folder = config.output_dir(file.path.parent)
    folder = (request.output or folder.with_name(f"{folder.name}-comparison")).absolute()
    setting = Setting(file, config, pinned, folder)
    seeds = range(config.run.seed, config.run.seed + request.seeds)
    return Prepared(setting, methods, seeds, _all_checked(setting, methods, seeds[0]))


def _all_checked(setting: Setting, methods: Sequence[Method], seed: int) -> list[Checked]:
    """Return a checked run of each method, or raise the mistakes of all, each once."""
    checked: list[Checked] = []
    errors: dict[str, Exception] = {}
    for method in methods:
        try:
            checked.append(setting.checked(method, seed))
        except (IsentropeError, ExceptionGroup) as error:
            errors |= {str(each): each for each in getattr(error, "exceptions", (error,))}
    raise_all(list(errors.values()))
    return checked


def parse_methods(given: Sequence[str]) -> list[Method]:
    """Return the methods of `--method a --method b+c`.

    Raises:
        ConfigError: there are fewer than two, two are the same, or one has no name.
    """
    methods = [Method(tuple(part.strip() for part in text.split("+"))) for text in given]
    for method in methods:
        if not all(method.presets):
            raise ConfigError(f"{method.name!r} names no method", where="--method", fix="for example A+B")
    places = [directory(method.name) for method in methods]
    if twice := sorted({place for place in places if places.count(place) > 1}):
        raise ConfigError(f"{', '.join(twice)} is given twice", where="--method", fix="give each method once")
    if len(methods) < 2:
        raise ConfigError("one method cannot be compared", where="--method", fix="give --method two times or more")
    return methods


def train_all(
    prepared: Prepared, drive: commands.Drive, console: Console, stops: Callable[[], bool] = lambda: False
) -> Ended:
    """Train every run that is not finished, all methods of one seed before the next, until one does not finish.

    stops: says whether the command was interrupted while no run went on.
    """
    rows = [(Row(method.name, seed), place) for seed in prepared.seeds for place, method in enumerate(prepared.methods)]
    with LiveTable(console, [row for row, _ in rows], prepared.setting.config.learner.batches) as table:
        for row, place in rows:
            first = row.seed == prepared.seeds[0]
            setting, method = prepared.setting, prepared.methods[place]
            checked = prepared.checked[place] if first else setting.checked(method, row.seed)
            ended = _train(checked, run_folder(setting.folder, method.name, row.seed), table.run(row), drive)
            if ended is not Ended.FINISHED:
                return ended
            if stops():
                return Ended.STOPPED
    return Ended.FINISHED


def _train(checked: Checked, path: Path, progress: RunProgress, drive: commands.Drive) -> Ended:
    """Train one run to its end, unless it has ended before."""
    batches = checked.config.learner.batches
    with commands.claim(checked, path) as folder:
        if folder.is_finished(batches):
            progress.found(read_last(path, BatchRow))
            return Ended.FINISHED
        outcome = commands.run_shown(ClaimedRun(checked, folder, time.time()), drive, progress)
    progress.ended(outcome.status if outcome is not None else "interrupted")
    if outcome is None:
        return Ended.INTERRUPTED
    progress.note(commands.sentence(outcome))
    return Ended.FINISHED if outcome.status == "finished" else Ended.STOPPED


def _tell(prepared: Prepared, console: Console) -> None:
    """Print what is about to run, what is pinned, and what limits the comparison."""
    count = len(prepared.methods) * len(prepared.seeds)
    names = ", ".join(method.name for method in prepared.methods)
    say(console, f"{count} runs of {names} in {prepared.setting.folder}")
    for pin in prepared.setting.pins:
        say(console, pin.sentence)
    notes = dict.fromkeys(note for each in prepared.checked for note in each.notes)
    show_notes(list(notes), console)
    config = prepared.setting.config
    if not config.data.eval_sets or not config.learner.eval_every:
        show_notes(["without held-out data (data.eval, learner.eval_every) there are curves, but no verdict"], console)


def _compare(prepared: Prepared, request: Request, as_json: bool, console: Console) -> int:
    """Write page and facts of all runs, and print the verdicts."""
    from isentrope.compare import PAGE, compare_runs

    folder = prepared.setting.folder
    page = request.page or folder / PAGE
    return compare_runs(prepared.folders, page, as_json, console, facts_file=folder / FACTS)

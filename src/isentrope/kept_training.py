"""The command `train --only train`: trains the groups that another run has kept, by ranks of this machine alone.

There is no broker, no Ray, and no actor. The run has its own run file and folder; its batches are those of the other
run, in their order, whatever its method makes of them.
"""

import contextlib
import functools
import multiprocessing
import time
from collections.abc import Sequence
from pathlib import Path

from rich.console import Console

from isentrope import commands, runfolder
from isentrope.check import kept_training as demands
from isentrope.check.findings import check
from isentrope.checking import show_notes
from isentrope.config import load
from isentrope.environment import hide_gpus, set_defaults
from isentrope.errors import ConfigError, InternalError
from isentrope.launch import logs
from isentrope.launch.guard import Guard
from isentrope.launch.interrupts import Interrupts
from isentrope.launch.local_ranks import LocalRanks
from isentrope.launch.plan import ClaimedRun, make_record, make_spec
from isentrope.launch.temporary import own_folder
from isentrope.learner import json_files
from isentrope.learner.config import LearnerConfig
from isentrope.learner.records import BatchRow, Notice, Outcome
from isentrope.progress import Progress, Tail
from isentrope.resolved import resolve
from isentrope.runfile import raise_all
from isentrope.runfolder import RunFolder

PART = "train"
"""The value of `--only`."""

INTERVAL_S = 0.5


def train(request: commands.Training, console: Console) -> int:
    """Train the kept groups of a run to the end of a run file, or continue where an earlier command stopped.

    Raises:
        ConfigError: the run file or an option asks for what needs actors, or for other groups; or there are too few.
        RunFolderError: there is no such run, or this run's folder is another run's.
        StorageError: a kept plan or payload, or a checkpoint, is damaged.
    """
    started = time.time()
    source = _source(request)
    set_defaults()
    config, file = load(request.run_file, request.overrides)
    if config.cluster.gpus is False:
        hide_gpus()
    raise_all(list(demands.failures(config, file, source, request.ray_address)))
    kept_by = runfolder.read_record(source)
    checked = check(config, file, from_kept=True)
    show_notes(checked.notes, console)
    path = checked.config.output_dir(file.path.parent)
    resolved = resolve(checked.config, file, path)
    demands.require_same_groups(resolved, checked.data_digest, source, kept_by.data_digest)
    batches = _batches(source, checked.config.learner)
    demands.require_same_tokens(checked, batches[0], kept_by.seed)
    claimed = RunFolder.claim(
        path, config_digest=checked.digest, data_digest=checked.data_digest, resolved=resolved, only=request.part
    )
    with claimed as folder:
        if folder.is_finished(checked.config.learner.batches):
            return commands.tell_finished(folder, console)
        run = ClaimedRun(checked, folder, started, groups=source, only=request.part, stopped_code=request.stopped_code)
        return commands.run_claimed(run, functools.partial(_drive, batches), console)


def _drive(batches: Sequence[Path], run: ClaimedRun, progress: Progress) -> Outcome:
    """Start the ranks, wait for their end, leave no process running."""
    from isentrope.learner.training.job import LearnerJob
    from isentrope.learner.training.kept_training import train_kept

    config, folder = run.checked.config, run.folder.path
    with contextlib.ExitStack() as stack:
        interrupts = stack.enter_context(Interrupts())
        stack.enter_context(logs.kept_apart(folder / "logs" / "command.log"))
        stack.callback(Guard().close)
        run.folder.begin(make_record(run, socket="", redis_version=""))
        job = LearnerJob(make_spec(run.checked, folder), config.learner, config.weights, url="")
        stop = multiprocessing.get_context("spawn").Event()
        place = stack.enter_context(own_folder("train"))
        shown = _Shown(folder, config.learner.batches, progress)
        body = functools.partial(train_kept, job, batches, stop)
        progress.note(f"groups of {run.groups}: {len(batches)} batches are kept")
        ranks = stack.enter_context(LocalRanks(config.learner, body, place, folder / "logs"))
        while not ranks.wait(INTERVAL_S):
            shown.look()
            if interrupts.asked and not stop.is_set():
                stop.set()
                progress.note("stopping: the learner finishes its batch; Ctrl-C again ends at once")
        shown.look()
        ranks.result()
    outcome = json_files.read(folder, Outcome)
    if outcome is None:
        raise InternalError("the ranks ended without an outcome", where=str(folder / "logs"), fix="see learner-0.log")
    return outcome


def _source(request: commands.Training) -> Path:
    """Return the folder of the other run."""
    if request.part != PART:
        raise ConfigError(
            f"--groups names groups to train, and --only is {request.part or 'not given'}",
            where="--groups",
            fix=f"--only {PART}, or leave --groups out",
        )
    if request.groups is None:
        raise ConfigError(
            "--only train needs groups, and none are named",
            where="--groups",
            fix="give the folder of a run that has kept its groups (learner.retain = groups)",
        )
    return runfolder.find(request.groups).resolve()


def _batches(source: Path, learner: LearnerConfig) -> tuple[Path, ...]:
    """Return the kept batches, the first `learner.batches` of which can be trained; errors as those of the calls."""
    from isentrope.learner.training.kept_route import kept_from_the_beginning, require_young

    batches = kept_from_the_beginning(source, learner.batches)
    require_young(batches[: learner.batches], learner.staleness.oldest_token)
    return batches


class _Shown:
    """Lines that the learner has written, shown as they come."""

    def __init__(self, folder: Path, batches: int, progress: Progress) -> None:
        self._rows = Tail(folder, BatchRow, from_end=True)
        self._notices = Tail(folder, Notice, from_end=True)
        self._batches = batches
        self._progress = progress
        self._waits = True

    def look(self) -> None:
        """Show what is new; until the first batch, that the ranks start."""
        for row in self._rows.read():
            self._waits = False
            self._progress.batch(row, self._batches)
        for notice in self._notices.read():
            self._progress.note(f"warning: {notice.text}")
        self._progress.waiting(["the learner loads the model" if self._waits else "the learner trains"])

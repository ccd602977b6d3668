"""Processes of a run that stand still and go on again, one role after another: status names each, nothing is lost.

One actor serves, so that the run waits for whoever stands still. Two deadlines are crossed: three heartbeats of the
actor, and what the ranks wait for each other.
"""

import contextlib
import signal
from collections.abc import Callable
from dataclasses import dataclass, field
from pathlib import Path

import psutil
import pytest
from random_kills import processes_of, require_all_accounted_for
from whole_commands import Command, Start, batches, lines, writes

from isentrope.demo.model import make_model
from isentrope.demo.recipe import RUN_FILE
from isentrope.status import read_status

pytestmark = [pytest.mark.soak, pytest.mark.timeout(2 * 3600)]

OPTIONS = (
    "actors.count=1",
    "learner.prompts_per_batch=8",
    "learner.checkpoint_every=2",
    "learner.eval_every=0",
    "learner.collective_timeout_s=60",
    "redis.timeout_s=40",
    "data.eval_prompts=8",
    "data.eval_samples=1",
)


@dataclass
class Stillness:
    """What was seen while a process stood still."""

    named: str = ""
    """What status said."""
    trained: list[int] = field(default_factory=list)
    """Batches, once the run had gone on."""


@dataclass
class Story:
    """One run whose processes stand still."""

    command: Command
    run: Path
    seen: dict[str, Stillness] = field(default_factory=dict)

    def stop(
        self, name: str, process: psutil.Process, words: tuple[str, ...], until: Callable[[], bool] = lambda: True
    ) -> None:
        """Let a process stand still until status has named it and a condition holds; wait for two more batches."""
        seen = self.seen[name] = Stillness()

        def is_named() -> bool:
            status = read_status(self.run)
            seen.named = status.live.waiting_for if status.live else status.unreachable
            return any(word in seen.named for word in words)

        process.suspend()
        self.command.until(is_named)
        self.command.until(until)
        with contextlib.suppress(psutil.NoSuchProcess):  # the command may have ended it
            process.resume()
        trained = max(batches(self.run))
        self.command.until(lambda: max(batches(self.run), default=0) >= trained + 2)
        seen.trained = batches(self.run)

    def one(self, role: str, log: str = "") -> psutil.Process:
        """Return the process of a role, that which writes this log."""
        found = list[psutil.Process]()

        def is_there() -> bool:
            found[:] = [each for each in processes_of(self.command, role) if not log or writes(each, log)]
            return bool(found)

        self.command.until(is_there)
        return found[0]

    def said(self, text: str) -> Callable[[], bool]:
        """Return a condition: the command prints this once more."""
        before = self.command.output.count(text)
        return lambda: self.command.output.count(text) > before


@pytest.fixture(scope="module")
def story(tmp_path_factory: pytest.TempPathFactory, start: Start) -> Story:
    folder = tmp_path_factory.mktemp("silent")
    make_model(folder / "model")
    own = (f"run.output_dir={folder / 'run'}", f"model.path={folder / 'model'}")
    options = ("train", str(RUN_FILE), *OPTIONS, *own)
    command = start(*options, "learner.batches=1000000", folder=folder)
    told = Story(command, folder / "run")
    command.until(lambda: len(batches(told.run)) >= 2)
    told.stop("engine", told.one("engine"), ("the engine of", "getting its weights"))
    told.stop("rank 0", told.one("rank", "learner-0.log"), ("learner (",))
    told.stop("rank 1", told.one("rank", "learner-1.log"), ("rank 1 (",))
    told.stop("actor", told.one("actor"), ("is silent",))
    told.stop("actor, long", told.one("actor"), ("is gone",), until=told.said("GONE: no heartbeat"))
    told.stop(
        "rank 1, long", told.one("rank", "learner-1.log"), ("rank 1 (",), until=told.said("ranks were started again")
    )
    command.send(signal.SIGINT)
    assert command.wait() == 0, command.output
    command = start(*options, f"learner.batches={max(batches(told.run)) + 1}", folder=folder)  # the rest
    assert command.wait() == 0, command.output
    return told


CASES = ("engine", "rank 0", "rank 1", "actor", "actor, long", "rank 1, long")


@pytest.mark.parametrize("case", CASES)
def test_who_stands_still_is_named_and_the_run_goes_on(story: Story, case: str) -> None:
    assert story.seen[case].trained == list(range(1, len(story.seen[case].trained) + 1))


def test_ranks_that_stand_still_for_too_long_are_started_again(story: Story) -> None:
    assert "learner" in {row["role"] for row in lines(story.run / "outages.jsonl")}


def test_nothing_is_lost_by_processes_that_stand_still(story: Story) -> None:
    require_all_accounted_for(story.run)

"""Two hundred random kills over learner ranks, actors, engines and the broker of one real run, in each mode.

Every group is trained once or retired with a reason. An asynchronous run ends with the weights of its own replay, one
on policy with those of a run that nobody disturbs. The run's folder stays in pytest's cache: a test that was stopped
goes on with the kills that are left at this commit, and each finished stretch is a part of `docs/results/soak.json`.
"""

import json
import shutil
import time
from collections import Counter
from dataclasses import dataclass
from pathlib import Path

import pytest
from random_kills import FIVE, Kills, require_all_accounted_for
from resume import commit
from totals import add
from whole_commands import Command, Start, batches

from isentrope.demo.model import make_model
from isentrope.demo.recipe import RUN_FILE

pytestmark = [pytest.mark.soak, pytest.mark.timeout(6 * 3600)]

NEVER = 10**6
"""Batches of a run that must not finish before all kills are done."""
KILLS = 200
STRETCH = 2 * len(FIVE)
"""Kills after which the sums are written."""
SMALL = (
    "actors.count=2",
    "learner.prompts_per_batch=8",
    "learner.checkpoint_every=2",
    "learner.eval_every=0",
    "data.eval_prompts=8",
    "data.eval_samples=1",
)
AGAIN_S = 3 * 3600.0
"""Longest time in which all batches are trained once more."""


@dataclass(frozen=True)
class Series:
    """One run that is disturbed, and what is known of it, in a folder that stays."""

    folder: Path
    mode: str
    start: Start

    @property
    def run(self) -> Path:
        """Folder of the run."""
        return self.folder / "run"

    @property
    def subject(self) -> str:
        """Name among the totals."""
        return f"random kills, {self.mode}"

    @property
    def killed(self) -> int:
        """Kills of the stretches that are finished."""
        note = self.folder / "killed.json"
        return int(json.loads(note.read_text())) if note.exists() else 0

    def train(self, name: str, batches: int) -> Command:
        """Begin or continue a run of this mode in the folder."""
        own = (f"run.output_dir={self.folder / name}", f"model.path={self.folder / 'model'}")
        changes = (*SMALL, *own, f"learner.mode={self.mode}", f"learner.batches={batches}")
        return self.start("train", str(RUN_FILE), *changes, folder=self.folder)

    def strike(self) -> None:
        """Kill as many processes as are left, in stretches, and stop the run."""
        if self.killed >= KILLS:
            return
        command = self.train("run", NEVER)
        series = Kills(command, self.run, f"{self.mode} {self.killed}")
        while (done := self.killed) < KILLS:
            began, trained = time.monotonic(), newest(self.run)
            series.done.clear()
            series.strike(min(STRETCH, KILLS - done))
            goes_on(command, self.run)
            (self.folder / "killed.json").write_text(json.dumps(done + len(series.done)))
            counts = {"kills": len(series.done), **Counter(series.done)}
            seen = {"seconds": round(time.monotonic() - began), "batches": newest(self.run) - trained}
            add(self.subject, f"kills {done + 1} to {done + len(series.done)}", {**counts, **seen})
        assert self.start("stop", str(self.run), folder=self.folder).wait() == 0
        assert command.wait() == 0, command.output

    def goal(self) -> int:
        """Return the batches that the disturbed run is to end with; the same in a session that goes on later."""
        note = self.folder / "goal.json"
        if not note.exists():
            note.write_text(json.dumps(newest(self.run) + 1))
        return int(json.loads(note.read_text()))

    def finish(self, name: str, batches: int) -> list[int]:
        """Train so many batches; a run that was stopped leaves orders, which are trained or retired only then. Return
        the groups that were trained."""
        if newest(self.folder / name) < batches:
            command = self.train(name, batches)
            assert command.wait(AGAIN_S) == 0, command.output
        return require_all_accounted_for(self.folder / name)


@pytest.fixture
def kept(request: pytest.FixtureRequest, start: Start) -> Series:
    """A series of this commit, which an interrupted session may have begun."""
    folder = request.config.cache.mkdir("nothing_lost") / f"{request.param}-{commit()}"
    if not (folder / "model").exists():
        make_model(folder / "model")
    if (folder / "run").exists():
        start("stop", str(folder / "run"), folder=folder).wait()  # a session that was killed may have left its command
    return Series(folder, request.param, start)


@pytest.mark.parametrize("kept", ["async"], indirect=True)
def test_a_run_with_kills_ends_as_its_replay(kept: Series) -> None:
    kept.strike()
    count = kept.goal()
    trained = kept.finish("run", count)
    replay = kept.start("replay", str(kept.run), folder=kept.folder)
    assert replay.wait(AGAIN_S) == 0, replay.output
    assert f"batches 1 to {count} were trained again" in replay.output
    _add_end(kept, count, len(trained))


@pytest.mark.parametrize("kept", ["on_policy"], indirect=True)
def test_a_run_with_kills_ends_as_one_without(kept: Series) -> None:
    kept.strike()
    count = kept.goal()
    trained = kept.finish("run", count)
    shutil.rmtree(kept.folder / "undisturbed", ignore_errors=True)
    kept.finish("undisturbed", count)
    ours, theirs = (kept.folder / name / "final" / "model.safetensors" for name in ("run", "undisturbed"))
    assert ours.read_bytes() == theirs.read_bytes()
    _add_end(kept, count, len(trained))


def goes_on(command: Command, run: Path) -> None:
    """Wait until a batch more was trained."""
    trained = newest(run)
    command.until(lambda: newest(run) > trained)


def newest(run: Path) -> int:
    """Return the number of the newest batch; 0: none was trained."""
    return max(batches(run), default=0)


def _add_end(kept: Series, count: int, trained: int) -> None:
    """Record what was compared at the end; nothing that was lost, or trained twice, comes so far."""
    retired = sum(json.loads((kept.run / "outcome.json").read_text())["retired"].values())
    compared = {"batches equal to the bit": count, "groups trained once": trained, "groups retired": retired}
    add(kept.subject, "the end", compared)

"""A cluster that has room for one actor: another that is asked for waits, which progress and status say, comes when
there is room, and leaves when it is not wanted any more, while the run trains on."""

import json
import os
import signal
import subprocess
import sys
from dataclasses import dataclass

import pytest
from raylets import raylets
from whole_commands import Start, batches, lines, serving

from isentrope import init
from isentrope.learner import json_files
from isentrope.learner.placement_record import PlacementRecord

pytestmark = [pytest.mark.slow, pytest.mark.timeout(3600)]

WAITS = "waits for room: 1 actor of 1 CPU"
OPTIONS = (
    "actors.count=1",
    "learner.ranks=1",
    "learner.batches=100000",
    'cluster.actor_labels={ role = "actor" }',
    'cluster.learner_labels={ role = "learner" }',
)


GROUPS = 32
"""Groups of a batch, as in the example; with a lag of one batch, twice as many are issued and not trained at most."""


@dataclass
class Seen:
    """What was seen of the run."""

    status: subprocess.CompletedProcess[str]
    """While one actor served and one had no room."""
    as_json: dict[str, object]
    batches: list[int]
    placed: PlacementRecord
    """When both served."""
    asked: list[subprocess.CompletedProcess[str]]
    """Answers of `isentrope scale`."""
    changes: list[dict[str, object]]
    code: int
    output: str
    outcome: dict[str, object]


@pytest.fixture(scope="module")
def seen(tmp_path_factory: pytest.TempPathFactory, start: Start) -> Seen:
    folder = tmp_path_factory.mktemp("room") / "example"
    init.write("digit_walk", folder)
    run = folder / "runs" / "digit-walk"

    def ask(*arguments: str) -> subprocess.CompletedProcess[str]:
        command = [sys.executable, "-m", "isentrope.cli", *arguments]
        return subprocess.run(command, cwd=folder, env=os.environ, capture_output=True, text=True)

    with raylets(head_cpus=0) as cluster:
        cluster.add(cpus=1, role="learner")
        cluster.add(cpus=1, role="actor")
        command = start("train", "run.toml", *OPTIONS, "--ray-address", cluster.address, folder=folder)
        command.until(lambda: len(batches(run)) >= 2)
        asked = [ask("scale", "actors=+1", "--json")]
        command.until(lambda: WAITS in command.output)
        status, as_json = ask("status"), json.loads(ask("status", "--json").stdout)
        before = len(batches(run))
        cluster.add(cpus=1, role="actor")
        command.until(lambda: serving(run) == 2 and len(batches(run)) > before + 1)
        both = json_files.read(run, PlacementRecord)
        before = len(batches(run))
        asked.append(ask("scale", "actors=1"))
        command.until(lambda: "fewer are wanted" in command.output and len(batches(run)) > before + 1)
        command.send(signal.SIGINT)
        code = command.wait()
    assert both is not None
    outcome = json.loads((run / "outcome.json").read_text())
    return Seen(status, as_json, batches(run), both, asked, lines(run / "scale.jsonl"), code, command.output, outcome)


def test_the_run_trains_with_the_actor_that_has_room_and_says_what_the_other_waits_for(seen: Seen) -> None:
    assert WAITS in seen.status.stdout
    placement = seen.as_json["placement"]
    assert isinstance(placement, dict) and placement["wanted"] == 2 and WAITS in placement["waits"]
    assert sorted(actor["state"] for actor in placement["actors"].values()) == ["placing", "serving"]


def test_the_other_comes_when_there_is_room(seen: Seen) -> None:
    assert seen.placed.waits == "" and len(seen.placed.actors) == 2


def test_the_newest_leaves_by_itself_when_one_is_wanted_again(seen: Seen) -> None:
    assert [each.returncode for each in seen.asked] == [0, 0], seen.asked
    told = json.loads(seen.asked[0].stdout)
    assert (told["before"], told["wanted"], told["external"]) == (1, 2, [])
    assert "actor a2 left: fewer are wanted" in seen.output
    changes = [(line["before"], line["wanted"], line["why"]) for line in seen.changes]
    assert changes == [(1, 2, "asked"), (2, 1, "asked")]


def test_no_batch_was_interrupted_and_the_ledger_is_closed(seen: Seen) -> None:
    assert seen.code == 0, seen.output
    assert seen.batches == list(range(1, len(seen.batches) + 1))
    assert "started again" not in seen.output
    retired, issued, trained = (seen.outcome[key] for key in ("retired", "issued", "trained"))
    assert isinstance(retired, dict) and isinstance(issued, int) and isinstance(trained, int)
    assert trained == GROUPS * len(seen.batches)
    assert 0 <= issued - trained - sum(retired.values()) <= 2 * GROUPS  # those that the next command goes on with

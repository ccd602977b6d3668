"""A run by the batch files of `deploy/slurm` on a real Slurm: a job that is preempted writes a checkpoint, is requeued,
and goes on to the run's end when there is room again; actors of another job leave, and come back with it."""

import json
import re
from collections.abc import Callable
from dataclasses import dataclass, field
from pathlib import Path

import pytest
from lab import SMALL
from machines import ROOT
from slurm_cluster import SlurmCluster
from waits import wait_until
from whole_commands import BOOT_S, batches

from isentrope import init

pytestmark = [pytest.mark.slow, pytest.mark.soak, pytest.mark.timeout(3600)]

SLURM = ROOT / "deploy" / "slurm"

CHANGES = ("learner.ranks=1", "learner.checkpoint_every=1000", *SMALL)
"""A checkpoint is written when the run is asked to stop, and at its end."""

MORE = 3
"""Batches before the preemption, and after it."""

REQUEUED = "requeued after exit code 0"

WITHOUT_GPUS = """#!/bin/bash
for word; do [ "$word" = --per-gpu ] || words+=("$word"); done
exec python -m isentrope.cli "${words[@]}"
"""
"""The program, which starts one actor where it is asked for one on each GPU: these are not GPUs."""

ALIVE = ("PENDING", "CONFIGURING", "RUNNING", "COMPLETING", "REQUEUED", "PREEMPTED")


@dataclass
class Story:
    """What was seen."""

    run: Path
    hosts: str = ""
    """Nodes of the job."""
    devices: str = ""
    """GPUs that Slurm gave each of them."""
    warned_at: int = 0
    """Newest batch when the other job came."""
    kept: int = 0
    """Newest batch when the job was back in the queue."""
    urgent: str = ""
    """State of the job that took its place."""
    restarts: str = ""
    ended: str = ""
    """State of the job at the run's end."""
    log: str = ""
    joined: list[str] = field(default_factory=list)
    """Output of each start of the actors' job."""
    back: str = ""
    """How often the actors' job was started again, and its state at the run's end."""


@pytest.fixture(scope="module")
def story(tmp_path_factory: pytest.TempPathFactory) -> Story:
    folder = tmp_path_factory.mktemp("slurm")
    example = folder / "example"
    init.write("digit_walk", example)
    cluster = SlurmCluster(folder, example, ("n1", "n2", "n3"))
    with cluster.switch:
        return _told(cluster, example)


def _told(cluster: SlurmCluster, example: Path) -> Story:
    seen = Story(example / "runs" / "digit-walk")
    env = {"ISENTROPE_DEPLOY": str(ROOT / "deploy"), "PYTHONPATH": str(ROOT / "src")}

    programs = example / "programs"
    programs.mkdir()
    (programs / "isentrope").write_text(WITHOUT_GPUS)
    (programs / "isentrope").chmod(0o755)

    def submit(*words: str) -> str:
        return cluster.ask("sbatch", "--parsable", *words, folder=example, env=env, programs=programs)

    def until(condition: Callable[[], object], job: str) -> None:
        def holds() -> bool:
            state = cluster.job(job)["JobState"]
            if condition():
                return True
            assert state in ALIVE, f"{state}: {told()}"
            return False

        wait_until(holds, told, deadline_s=2 * BOOT_S, poll_s=1.0)  # one machine has all nodes

    def told() -> str:
        logs = [*example.glob("*.log"), *example.glob("slurm-logs/*/*")]
        return "\n\n".join(f"{log.name}: {log.read_text()[-2000:]}" for log in logs) + cluster.output()

    def newest() -> int:
        return max(batches(seen.run), default=0)

    _go_on(example, last=1_000_000, actors=1)
    train = submit("--nodes=2", "--nodelist=n1,n2", str(SLURM / "train.sbatch"), "run.toml", *CHANGES)
    until(lambda: newest() >= MORE, train)
    actors = submit("--array=1", "--nodelist=n3", str(SLURM / "actors.sbatch"), "digit-walk")
    of_actors = example / f"isentrope-actors-{actors}-1.log"
    until(lambda: of_actors.exists() and "serves version" in of_actors.read_text(), train)
    job = cluster.job(train)
    seen.hosts, seen.devices = job["NodeList"], job.get("TresPerNode", "")

    seen.warned_at = newest()
    urgent = submit("--partition=urgent", "--nodes=2", "--nodelist=n1,n2", "--exclusive", "--wrap=sleep 5")
    log = example / f"isentrope-{train}.log"
    until(lambda: REQUEUED in log.read_text(), train)
    seen.kept = newest()
    _go_on(example, last=seen.kept + MORE, actors=0)  # by the actors of the other job alone
    until(lambda: cluster.job(urgent)["JobState"] == "COMPLETED", train)
    seen.urgent = cluster.job(urgent)["JobState"]
    until(lambda: REQUEUED in of_actors.read_text() and cluster.job(actors)["JobState"] == "PENDING", train)
    for waiting in (actors, train):
        if cluster.job(waiting)["JobState"] == "PENDING":
            cluster.ask("scontrol", "update", f"JobId={waiting}", "StartTime=now")  # else Slurm waits two minutes
    until(lambda: cluster.job(train)["JobState"] == "COMPLETED", train)
    until(lambda: cluster.job(actors)["JobState"] == "COMPLETED", actors)
    job, back = cluster.job(train), cluster.job(actors)
    seen.restarts, seen.ended = job["Restarts"], f"{job['JobState']} {job['ExitCode']}"
    seen.log, seen.joined = log.read_text(), of_actors.read_text().split(REQUEUED)
    seen.back = f"{back['Restarts']} {back['JobState']} {back['ExitCode']}"
    return seen


def _go_on(example: Path, last: int, actors: int) -> None:
    """Write the run's last batch, and the number of its own actors, into its run file, which each start reads."""
    text = (example / "run.toml").read_text().split("[actors]")[0]
    changed, count = re.subn(r"(?m)^batches = \d+", f"batches = {last}", text)
    assert count == 1
    (example / "run.toml").write_text(f"{changed}[actors]\ncount = {actors}\n")


def test_a_job_spans_the_nodes_that_it_asks_for(story: Story) -> None:
    assert story.hosts == "n[1-2]" and story.devices.endswith("gpu:8")


def test_actors_join_by_a_job_of_their_own_and_come_back_with_the_run(story: Story) -> None:
    """The run's last batches are theirs: its second start has no actors of its own."""
    assert ["serves version" in start for start in story.joined] == [True, True]
    assert story.back == "1 COMPLETED 0:0"


def test_a_preempted_job_loses_no_batch(story: Story) -> None:
    """Though no checkpoint was due: the warning has it written before the nodes are given away."""
    assert story.urgent == "COMPLETED" and story.restarts == "1"
    assert f"{REQUEUED}, restart 0" in story.log
    assert story.kept >= story.warned_at
    assert batches(story.run) == list(range(1, story.kept + MORE + 1))


def test_it_goes_on_to_the_end_of_the_run(story: Story) -> None:
    outcome = json.loads((story.run / "outcome.json").read_text())
    assert (outcome["status"], outcome["batches"]) == ("finished", story.kept + MORE)
    assert story.ended == "COMPLETED 0:0"

"""The batch files of `deploy/slurm` on a real Slurm, with programs that stand for Ray's and isentrope's: places, GPUs,
preemption, requeue, cancellation."""

import re
from collections.abc import Callable
from dataclasses import dataclass, field
from pathlib import Path

import pytest
from machines import ROOT
from slurm_cluster import SlurmCluster
from waits import wait_until

pytestmark = [pytest.mark.slow, pytest.mark.soak, pytest.mark.timeout(900)]

SLURM = ROOT / "deploy" / "slurm"

COMMANDS = (
    "sbatch --test-only deploy/slurm/train.sbatch deploy/runs/gsm8k-8gpu.toml",
    "sbatch --test-only --nodes=2 deploy/slurm/train.sbatch deploy/runs/dapo-7b-4nodes.toml",
    "sbatch --test-only --array=1-8 deploy/slurm/actors.sbatch gsm8k",
    "srun --test-only --nodes=2 --ntasks-per-node=1 --gpus-per-node=8 deploy/checks/nccl.sh",
    "scontrol show config",
)
"""Of the README; `--nodes=4` there, and there are three."""

UNTIL_TERM = "trap 'exit 0' TERM; sleep 1000 & wait $!"

PROGRAMS = {
    "ray": (
        'case $1 in start) echo "$(hostname) $*" >>"$SLURM_SUBMIT_DIR/rays"; '
        f'{UNTIL_TERM} ;; status) sed "s/.*/ 1 node_&/" "$SLURM_SUBMIT_DIR/rays" ;; esac'
    ),
    "isentrope": (
        'echo "$(hostname) ${CUDA_VISIBLE_DEVICES:-none}" >"$SLURM_SUBMIT_DIR/$1-${SLURM_RESTART_COUNT:-0}"; '
        + UNTIL_TERM
    ),
}


@dataclass
class Story:
    """What was seen."""

    rays: list[str] = field(default_factory=list)
    """Nodes on which Ray was started, with its arguments, before the preemption."""
    devices: str = ""
    """Node of the command, and the GPUs that it sees."""
    actor: str = ""
    refused: list[str] = field(default_factory=list)
    """Commands of the README that Slurm's own programs do not take, with what they say."""
    restarts: str = ""
    urgent: str = ""
    """State of the job that took the nodes."""
    again: bool = False
    cancelled: str = ""
    """State of the job after it was cancelled."""
    log: str = ""


@pytest.fixture(scope="module")
def story(tmp_path_factory: pytest.TempPathFactory) -> Story:
    folder = tmp_path_factory.mktemp("slurm")
    shared = folder / "shared"
    (shared / "programs").mkdir(parents=True)
    for name, action in PROGRAMS.items():
        (shared / "programs" / name).write_text(f"#!/bin/bash\n{action}\n")
        (shared / "programs" / name).chmod(0o755)
    (shared / "run.toml").write_text('[run]\nname = "mine"\n')
    cluster = SlurmCluster(folder, shared, ("n1", "n2", "n3"))
    with cluster.switch:
        return _told(cluster, shared)


def _told(cluster: SlurmCluster, shared: Path) -> Story:
    seen = Story()
    env = {"ISENTROPE_DEPLOY": str(ROOT / "deploy")}

    def submit(*words: str) -> str:
        return cluster.ask("sbatch", "--parsable", *words, folder=shared, env=env, programs=shared / "programs")

    def until(condition: Callable[[], object]) -> None:
        wait_until(condition, lambda: _logs(shared) + cluster.output(), deadline_s=200.0, poll_s=0.5)

    train = submit("--nodes=2", "--nodelist=n1,n2", str(SLURM / "train.sbatch"), "run.toml")
    until((shared / "train-0").exists)
    seen.devices, seen.rays = (shared / "train-0").read_text(), (shared / "rays").read_text().splitlines()
    submit("--array=1", "--nodelist=n3", str(SLURM / "actors.sbatch"), "mine")
    until((shared / "actor-0").exists)
    seen.actor = (shared / "actor-0").read_text()
    seen.refused = [said for command in COMMANDS if (said := cluster.refused(command, ROOT))]

    urgent = submit("--partition=urgent", "--nodes=2", "--nodelist=n1,n2", "--exclusive", "--wrap=sleep 1")
    until(lambda: cluster.job(urgent)["JobState"] == "COMPLETED")
    seen.urgent = cluster.job(urgent)["JobState"]
    until(lambda: cluster.job(train)["JobState"] == "PENDING")
    cluster.ask("scontrol", "update", f"JobId={train}", "StartTime=now")  # Slurm waits two minutes by itself
    until((shared / "train-1").exists)
    seen.again, seen.restarts = True, cluster.job(train)["Restarts"]
    cluster.ask("scancel", train)
    until(lambda: cluster.job(train)["JobState"] not in ("RUNNING", "COMPLETING"))
    seen.cancelled, seen.log = cluster.job(train)["JobState"], (shared / f"isentrope-{train}.log").read_text()
    return seen


def _logs(shared: Path) -> str:
    return "\n".join(
        f"{log.name}: {log.read_text()[-2000:]}" for log in (*shared.glob("*.log"), *shared.glob("*/*/*.log"))
    )


def test_each_node_has_one_ray_and_the_first_is_its_head(story: Story) -> None:
    assert sorted((line.split()[0], "--head" in line) for line in story.rays) == [("n1", True), ("n2", False)]


def test_processes_see_the_gpus_of_their_node(story: Story) -> None:
    assert story.devices == "n1 0,1,2,3,4,5,6,7\n"
    assert re.fullmatch(r"n3 \d\n", story.actor)


def test_a_preempted_job_is_warned_requeued_and_starts_again(story: Story) -> None:
    assert story.urgent == "COMPLETED" and story.again and story.restarts == "1"
    assert "requeued after exit code 0, restart 0" in story.log


def test_a_cancelled_job_ends(story: Story) -> None:
    """Its programs get the signal that is also the warning."""
    assert story.cancelled == "CANCELLED"


def test_the_readmes_commands_are_accepted(story: Story) -> None:
    assert story.refused == []

"""The batch files of Slurm, run as they stand with programs of Slurm, Ray and isentrope that note what they are asked.

The checker of shells sees none of what is asserted here; Slurm's own part is another test's."""

import contextlib
import os
import re
import shutil
import signal
import subprocess
from collections.abc import Iterator
from dataclasses import dataclass, field
from pathlib import Path

import psutil
import pytest
from deploy_files import DEPLOY
from waits import wait_until

from isentrope import errors
from isentrope.launch.broker import OF_A_COMMAND

SLURM = DEPLOY / "slurm"

STUBS = {
    "scontrol": 'case "$1 $2" in "show hostnames") for n in $HOSTS; do echo "$n"; done ;; esac',
    "squeue": 'echo "$STATE"',
    "srun": 'while [ "${1#-}" != "$1" ]; do shift; done; exec "$@" >/dev/null',
    "ray": (
        'case $1 in start) case " $* " in *"$ENDS"*) [ "$(grep -c "^ray start.*$ENDS" "$NOTES/calls")" -gt "$TIMES" ] '
        '|| exit 3 ;; esac; echo "$*" >>"$NOTES/up"; trap "exit 0" TERM; sleep 1000 &>/dev/null & wait $! ;; '
        'status) sed "s/.*/ 1 node_&/" "$NOTES/up" ;; esac'
    ),
    "redis-server": '[ -z "$BROKEN" ] || exit 1; trap "exit 0" TERM; sleep 1000 &>/dev/null & wait $!',
    "isentrope": (
        'env | grep -E "^(ISENTROPE|RAY)_" >"$NOTES/environment"; trap "echo term >>$NOTES/calls; exit $AFTER" TERM; '
        'echo $$ >"$NOTES/pid"; touch "$NOTES/started"; [ -n "$CODE" ] && exit "$CODE"; '
        "sleep 1000 &>/dev/null & wait $!"
    ),
}
"""What each program does after it has noted its arguments."""


@dataclass
class Job:
    """One start of a batch file in a folder of its own."""

    folder: Path
    hosts: str = "n1"
    code: str = "0"
    after: int = 0
    restarts: int = 0
    state: str = "RUNNING"
    """What Slurm says of it."""
    url: str = ""
    environment: dict[str, str] = field(default_factory=lambda: {"LEAVE_TIMEOUT": "0"})
    """More variables."""
    ends: str = "--head"
    """What a start of Ray is given that ends by itself, the first `times` times."""
    times: int = 0
    broken: str = ""
    """Whether the broker ends by itself."""
    deploy: Path = DEPLOY
    told: str = ""
    started: "list[subprocess.Popen[str]]" = field(default_factory=list)

    def start(self, name: str, *arguments: str) -> "subprocess.Popen[str]":
        """Start it as Slurm would: a copy of the file, in the folder in which it was given."""
        programs = self.folder / "programs"
        programs.mkdir(exist_ok=True)
        for program, action in STUBS.items():
            path = programs / program
            path.write_text(f'#!/bin/bash\necho "{program} $*" >>"$NOTES/calls"\n{action}\n')
            path.chmod(0o755)
        shutil.copy(SLURM / name, self.folder / "slurm_script")
        environment = (
            {
                "PATH": f"{programs}:{os.environ['PATH']}",
                "HOME": str(self.folder),
                "NOTES": str(self.folder),
                "HOSTS": self.hosts,
                "CODE": self.code,
                "AFTER": str(self.after),
                "STATE": self.state,
                "ENDS": self.ends,
                "TIMES": str(self.times),
                "BROKEN": self.broken,
                "SLURM_JOB_ID": "7",
                "SLURM_JOB_NODELIST": "n[1-9]",
                "SLURM_SUBMIT_DIR": str(self.folder),
                "SLURM_RESTART_COUNT": str(self.restarts),
                "ISENTROPE_DEPLOY": str(self.deploy),
                "PYTHONPATH": str(DEPLOY.parent / "src"),
            }
            | self.environment
            | ({"ISENTROPE_REDIS_URL": self.url} if self.url else {})
        )
        job = subprocess.Popen(
            ["bash", "slurm_script", *arguments],
            cwd=self.folder,
            env=environment,
            stdout=subprocess.PIPE,
            stderr=subprocess.STDOUT,
            text=True,
            start_new_session=True,
        )
        self.started.append(job)
        return job

    def run(self, name: str, *arguments: str) -> int:
        """Return its exit code."""
        job = self.start(name, *arguments)
        self.told = job.communicate(timeout=60)[0]
        return job.returncode

    def calls(self, program: str) -> list[str]:
        """Return what a program was asked."""
        path = self.folder / "calls"
        lines = path.read_text().splitlines() if path.exists() else []
        return [line for line in lines if line.split()[0] == program]


@pytest.fixture
def job(tmp_path: Path) -> Iterator[Job]:
    (tmp_path / "run.toml").write_text('[run]\nname = "mine"\n')
    private = tmp_path / "broker-mine"
    private.mkdir()
    (private / "actor.url").write_text("redis://actor@n1:16379\n")
    job = Job(tmp_path)
    yield job
    for each in job.started:
        with contextlib.suppress(ProcessLookupError):
            os.killpg(each.pid, signal.SIGKILL)
        each.communicate()


def _program(job: Job) -> int:
    """Return the number of the process that stands for isentrope."""
    return int((job.folder / "pid").read_text())


ARGUMENTS = {"train.sbatch": ("run.toml", "learner.batches=3"), "actors.sbatch": ("mine",)}


@pytest.mark.parametrize("name", sorted(ARGUMENTS))
@pytest.mark.parametrize("after", [0, 143])
def test_a_warning_reaches_the_program_and_the_job_is_requeued(job: Job, name: str, after: int) -> None:
    """Also where the signal ends it at once, as before it has set what to do."""
    job.code, job.after = "", after
    running = job.start(name, *ARGUMENTS[name])
    wait_until(lambda: (job.folder / "started").exists(), "the program was not started")
    os.kill(running.pid, signal.SIGTERM)
    told = running.communicate(timeout=30)[0]
    assert (running.returncode, job.calls("term")) == (0, ["term"]), told
    assert job.calls("scontrol")[-1] == "scontrol requeue 7"


@pytest.mark.parametrize("name", sorted(ARGUMENTS))
def test_a_job_that_was_cancelled_ends(job: Job, name: str) -> None:
    """By the same signal: Slurm would requeue it if it were asked to."""
    job.code, job.state = "", "COMPLETING"
    running = job.start(name, *ARGUMENTS[name])
    wait_until(lambda: (job.folder / "started").exists(), "the program was not started")
    os.kill(running.pid, signal.SIGTERM)
    told = running.communicate(timeout=30)[0]
    assert (running.returncode, job.calls("term")) == (0, ["term"]), told
    assert "scontrol requeue 7" not in job.calls("scontrol")


@pytest.mark.parametrize("name", sorted(ARGUMENTS))
@pytest.mark.parametrize(
    ("code", "requeued"), [(0, False), (64, False), (65, False), (69, True), (74, True), (79, False)]
)
def test_what_another_start_may_cure_is_requeued(job: Job, name: str, code: int, requeued: bool) -> None:
    job.code, job.url = str(code), "redis://learner@elsewhere:6379"
    assert job.run(name, *ARGUMENTS[name]) == (0 if requeued else code), job.told
    assert ("scontrol requeue 7" in job.calls("scontrol")) is requeued


def test_a_run_that_goes_on_later_tells_its_actors_until_it_does(job: Job) -> None:
    later = job.folder / "broker-mine" / "later"
    later.write_text("6\n")
    job.code = ""
    running = job.start("train.sbatch", *ARGUMENTS["train.sbatch"])
    wait_until(lambda: (job.folder / "started").exists(), "the program was not started")
    assert not later.exists() and later.with_name("job").read_text() == "7\n"
    os.kill(running.pid, signal.SIGTERM)
    assert running.communicate(timeout=30) and later.read_text() == "7\n"


def test_actors_of_a_run_that_goes_on_later_are_put_back_with_it(job: Job) -> None:
    """Although they were told that the run has ended; they wait for its next start."""
    later = job.folder / "broker-mine" / "later"
    job.code = ""
    running = job.start("actors.sbatch", "mine")
    wait_until(lambda: (job.folder / "started").exists(), "the program was not started")
    later.write_text("7\n")
    os.kill(_program(job), signal.SIGTERM)
    told = running.communicate(timeout=30)[0]
    assert running.returncode == 0 and job.calls("scontrol") == ["scontrol requeue 7"], told
    job.code, job.environment = "0", {"LEAVE_TIMEOUT": "0"}
    again = job.start("actors.sbatch", "mine")
    wait_until(lambda: len(job.calls("squeue")) > 3, "it did not ask for the job")
    assert len(job.calls("isentrope")) == 1
    later.unlink()
    assert again.wait(30) == 0 and len(job.calls("isentrope")) == 2


@pytest.mark.parametrize(("state", "requeued"), [("RUNNING", True), ("COMPLETING", False)])
def test_actors_that_wait_for_word_of_their_run_heed_a_warning(job: Job, state: str, requeued: bool) -> None:
    """The program has ended by itself: no other wait sees the signal."""
    (job.folder / "broker-mine" / "job").write_text("7\n")
    job.state, job.environment = state, {"LEAVE_TIMEOUT": "1000"}
    running = job.start("actors.sbatch", "mine")

    def waits() -> bool:
        children = psutil.Process(running.pid).children()
        return any(child.name() == "sleep" for child in children) and (job.folder / "started").exists()

    wait_until(waits, "it does not wait")
    os.kill(running.pid, signal.SIGTERM)
    told = running.communicate(timeout=30)[0]
    assert running.returncode == 0, told
    assert ("scontrol requeue 7" in job.calls("scontrol")) is requeued


def test_actors_that_were_told_of_an_earlier_stop_start_again(job: Job) -> None:
    """The job that trains has started, and its command has not begun the run again."""
    (job.folder / "broker-mine" / "job").write_text("7\n")
    running = job.start("actors.sbatch", "mine")
    wait_until(lambda: len(job.calls("isentrope")) > 1, "the program was not started again")
    os.kill(running.pid, signal.SIGTERM)
    told = running.communicate(timeout=30)[0]
    assert running.returncode == 0 and "scontrol requeue 7" in job.calls("scontrol"), told


@pytest.mark.parametrize("state", ["", "COMPLETING"])
def test_actors_of_a_run_that_was_cancelled_end(job: Job, state: str) -> None:
    """The job that trains is not in the queue any more, or has told nothing."""
    if not state:
        (job.folder / "broker-mine" / "later").write_text("7\n")
    job.state, job.environment = state, {"LEAVE_TIMEOUT": "0"}
    assert job.run("actors.sbatch", "mine") == 0 and job.calls("scontrol") == [], job.told


def test_it_is_not_requeued_for_ever(job: Job) -> None:
    job.code, job.restarts = "69", 3
    assert job.run("actors.sbatch", "mine") == 69


def test_an_error_after_the_warning_ends_the_job(job: Job) -> None:
    job.code, job.after = "", 65
    running = job.start("actors.sbatch", "mine")
    wait_until(lambda: (job.folder / "started").exists(), "the program was not started")
    os.kill(running.pid, signal.SIGTERM)
    running.communicate(timeout=30)
    assert running.returncode == 65 and job.calls("scontrol") == []


def test_the_codes_are_those_of_the_errors() -> None:
    (codes,) = re.findall(r'TRY_AGAIN="([\d ]+)"', (SLURM / "requeue.sh").read_text())
    curable = (errors.UnreachableError, errors.StorageError, errors.StalledError)
    assert set(map(int, codes.split())) == {error.exit_code for error in curable}


def test_each_node_has_one_ray_and_the_first_is_its_head(job: Job) -> None:
    job.hosts = "n1 n2 n3 n4"
    assert job.run("train.sbatch", *ARGUMENTS["train.sbatch"]) == 0, job.told
    starts = job.calls("srun")
    assert sorted(re.findall(r"--nodes=(\d+) --ntasks=(\d+) --nodelist=(\S+)", "\n".join(starts))) == [
        ("1", "1", host) for host in ("n1", "n2", "n3", "n4")
    ]
    assert [line.split("--nodelist=")[1].split()[0] for line in starts if " --head " in f"{line} "] == ["n1"]
    (train,) = job.calls("isentrope")
    passwords = job.folder / "broker-mine"
    assert train == f"isentrope train run.toml learner.batches=3 redis.passwords={passwords} --ray-address n1:16380"
    assert {f"{role}.password" for role in OF_A_COMMAND} <= {path.name for path in passwords.iterdir()}


@pytest.mark.parametrize("ends", ["--head", "--address"])
def test_a_ray_that_ends_at_its_start_is_started_again(job: Job, ends: str) -> None:
    """As where the machines are so busy that a node gives up to wait for itself."""
    job.hosts, job.ends, job.times = "n1 n2", ends, 2
    host = "n1" if ends == "--head" else "n2"
    assert job.run("train.sbatch", *ARGUMENTS["train.sbatch"]) == 0, job.told
    log = job.folder / "slurm-logs" / "mine-7-0" / f"ray-{host}.log"
    assert job.told.count(f"Ray on {host} has ended with code 3, and is started again: see {log}\n") == 2, job.told
    assert len(job.calls("srun")) == 4 and len(job.calls("isentrope")) == 1
    assert all("--open-mode=append" in line for line in job.calls("srun"))  # the log of what ended is kept


@pytest.mark.parametrize(("restarts", "requeued"), [(0, True), (3, False)])
def test_a_ray_that_always_ends_is_not_waited_for(job: Job, restarts: int, requeued: bool) -> None:
    job.hosts, job.times, job.restarts = "n1 n2", 1000, restarts
    assert job.run("train.sbatch", *ARGUMENTS["train.sbatch"]) == (0 if requeued else 69), job.told
    assert ("scontrol requeue 7" in job.calls("scontrol")) is requeued
    log = job.folder / "slurm-logs" / f"mine-7-{restarts}" / "ray-n1.log"
    assert f"Ray on n1 has ended 3 times, at last with code 3: see {log}\n" in job.told
    assert job.calls("isentrope") == []


def test_a_broker_that_ends_is_not_waited_for(job: Job) -> None:
    job.broken, job.times = "1", 1000
    assert job.run("train.sbatch", *ARGUMENTS["train.sbatch"]) == 0, job.told
    log = job.folder / "slurm-logs" / "mine-7-0" / "redis.log"
    assert f"the broker on n1 has ended: see {log}\n" in job.told
    assert job.calls("scontrol")[-1] == "scontrol requeue 7" and job.calls("isentrope") == []


def test_the_ports_are_below_those_that_the_kernel_gives_away() -> None:
    ports = {int(port) for port in re.findall(r"(?:PORT|WORKER)=(\d+)", (SLURM / "train.sbatch").read_text())}
    assert len(ports) == 6 and all(10000 < port < 32768 for port in ports)


def test_secrets_are_in_no_argument(job: Job) -> None:
    assert job.run("train.sbatch", *ARGUMENTS["train.sbatch"]) == 0, job.told
    private = job.folder / "broker-mine"
    secrets = [path.read_text() for path in (*private.glob("*.password"), private / "ray.token")]
    seen = (job.folder / "calls").read_text() + (job.folder / "environment").read_text() + job.told
    assert len(secrets) == 6 and all(secret and secret not in seen for secret in secrets)
    assert (private.stat().st_mode & 0o777, (private / "ray.token").stat().st_mode & 0o777) == (0o700, 0o600)
    assert "RAY_AUTH_MODE=token" in (job.folder / "environment").read_text()


def test_a_broker_that_is_given_is_taken(job: Job) -> None:
    job.url = "redis://learner@elsewhere:6379"
    assert job.run("train.sbatch", "run.toml") == 0, job.told
    assert job.calls("isentrope") == ["isentrope train run.toml --ray-address n1:16380"]
    job.state = ""  # it has ended
    assert job.run("actors.sbatch", "mine", "--password-file", "/secret") == 0, job.told
    assert job.calls("isentrope")[-1] == "isentrope actor --run mine --per-gpu --password-file /secret"


@pytest.mark.parametrize("name", sorted(ARGUMENTS))
def test_without_a_run_the_usage_is_told(job: Job, name: str) -> None:
    assert job.run(name) == 64 and "usage: sbatch" in job.told


@pytest.mark.parametrize("name", sorted(ARGUMENTS))
def test_outside_slurm_the_usage_is_told(job: Job, name: str) -> None:
    """As where a user starts the file itself."""
    job.environment = {"SLURM_JOB_ID": ""}
    assert job.run(name, *ARGUMENTS[name]) == 64 and "usage: sbatch" in job.told


@pytest.mark.parametrize("name", ARGUMENTS)
def test_a_job_that_was_given_elsewhere_says_where_to_give_it(job: Job, name: str) -> None:
    job.deploy = job.folder / "deploy"
    assert job.run(name, *ARGUMENTS[name]) == 64
    assert job.told == f"{job.deploy}/slurm is not there: give sbatch in the checkout\n"


def test_actors_without_a_run_that_was_started_are_refused(job: Job) -> None:
    assert job.run("actors.sbatch", "other") == 64 and "start train.sbatch first" in job.told


@pytest.mark.parametrize("name", sorted(ARGUMENTS))
def test_slurm_warns_the_script_before_it_ends_the_job(name: str) -> None:
    options = re.findall(r"^#SBATCH (\S+)", (SLURM / name).read_text(), re.MULTILINE)
    assert "--requeue" in options and "--open-mode=append" in options
    (seconds,) = [int(option.rpartition("@")[2]) for option in options if option.startswith("--signal=B:TERM@")]
    assert seconds >= 60


@pytest.mark.parametrize(
    ("given", "planted"), [("trap warn TERM", "trap warm TERM"), ("  interrupted=1\n  if", "  if")]
)
def test_a_planted_mistake_loses_the_warning(job: Job, given: str, planted: str) -> None:
    """Mistakes that the checker of shells passes."""
    shutil.copytree(DEPLOY, job.folder / "deploy")
    library = job.folder / "deploy" / "slurm" / "requeue.sh"
    assert given in library.read_text()
    library.write_text(library.read_text().replace(given, planted))
    job.deploy, job.code, job.after = job.folder / "deploy", "", 65
    running = job.start("actors.sbatch", "mine")
    wait_until(lambda: (job.folder / "started").exists(), "the program was not started")
    os.kill(running.pid, signal.SIGTERM)
    assert running.wait(30) != 65

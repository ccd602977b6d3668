"""Every command of the README is run by a test, or read by its program's own parser."""

import ast
import re
import shlex
import subprocess
from collections.abc import Iterator

import pytest
from deploy_files import DEPLOY
from own_parsers import refused_by

TEXT = (DEPLOY / "README.md").read_text()

PROGRAMS = (
    *("deploy/", "docker", "isentrope", "kubectl", "make", "redis-server", "sbatch", "scancel", "scontrol", "srun"),
    "ulimit",
)

PARSED = ("docker build", "kubectl")
"""Beginnings of commands that their programs read here."""

BY_SLURM = "../system/test_slurm.py::test_the_readmes_commands_are_accepted"

RUN = {
    "deploy/checks/containers.sh": "test_checks.py::test_the_images_and_the_compose_file_are_tried_to_the_end",
    "deploy/checks/kubernetes.sh plain": "test_checks.py::test_an_overlay_is_tried_to_the_end",
    "deploy/checks/nccl.sh": "test_nccl.py::test_two_nodes_agree",
    "deploy/compose/prepare.sh": "test_compose.py::test_what_is_mounted_is_made",
    "deploy/kubernetes/secret.sh dapo-7b": "test_kubernetes.py::test_the_secret_has_what_the_manifests_ask_for",
    "deploy/kubernetes/secret.sh gsm8k": "test_kubernetes.py::test_the_secret_has_what_the_manifests_ask_for",
    "deploy/redis/make-acl.sh RUN FOLDER": (
        "test_broker_files.py::test_passwords_stay_and_are_read_by_their_owner_alone"
    ),
    "isentrope actor": "../system/test_own_run.py::test_actor_joins_by_url_and_leaves_when_the_run_ends",
    "isentrope check": "../isentrope/check/test_broker.py::test_the_check_of_a_run_file_looks_at_it",
    "isentrope depot": "../isentrope/test_joining.py::test_a_runs_published_files_are_offered_until_a_signal",
    "isentrope exporter": "../isentrope/exporter/test_serving.py::test_metrics_are_served_over_http_by_name_or_folder",
    "isentrope mode": "../system/test_own_run.py::test_mode_changes_while_it_runs",
    "isentrope plan": "test_runs.py::test_the_table_of_capacity_is_what_the_plan_says",
    "make demo": "../project/test_pages.py::test_make_knows_the_targets_that_are_not_run",
    "make soak": "../project/test_pages.py::test_make_knows_the_targets_that_are_not_run",
    "redis-server deploy/redis/redis.conf --dir DATA --aclfile FOLDER/users.acl": (
        "test_broker_files.py::test_the_server_meets_the_demands_of_a_run"
    ),
    "sbatch --array=1-8 deploy/slurm/actors.sbatch gsm8k": BY_SLURM,
    "sbatch --nodes=4 … deploy/runs/dapo-7b-4nodes.toml": BY_SLURM,
    "sbatch deploy/slurm/train.sbatch deploy/runs/gsm8k-8gpu.toml": BY_SLURM,
    "scontrol show config": BY_SLURM,
    "srun --nodes=2 --ntasks-per-node=1 --gpus-per-node=8 deploy/checks/nccl.sh": BY_SLURM,
    "ulimit -n 65600": "test_broker_files.py::test_a_small_limit_of_open_files_lowers_the_clients_and_is_told",
}

NOT_RUN = {
    "deploy/checks/gpu.sh": "wants GPUs; what it asks of isentrope is read by that",
    "deploy/checks/slurm.sh": "wants GPUs",
    "docker compose --file deploy/compose/compose.yaml up --build": "Compose could not be had",
}


def commands() -> Iterator[str]:
    """Yield what is to be typed: lines of shell blocks, and inline code that begins with a program."""
    fenced = [line for block in re.findall(r"```sh\n(.*?)```", TEXT, re.DOTALL) for line in block.splitlines()]
    inline = re.findall(r"`([^`\n]+)`", re.sub(r"```sh\n.*?```", "", TEXT, flags=re.DOTALL))
    begins = re.compile(rf"({'|'.join(map(re.escape, PROGRAMS))})")
    yield from (text for text in (*fenced, *inline) if begins.match(text) and (" " in text or text.endswith(".sh")))


def test_every_command_is_run_or_read_by_its_parser_or_says_why_not() -> None:
    told = {command for command in commands() if not command.startswith(PARSED)}
    assert told == RUN.keys() | NOT_RUN.keys()


@pytest.mark.parametrize("place", sorted(set(RUN.values())))
def test_whoever_runs_a_command_exists(place: str) -> None:
    path, _, name = place.partition("::")
    tree = ast.parse((DEPLOY.parent / "tests" / "deploy" / path).read_text())
    assert name in [node.name for node in tree.body if isinstance(node, ast.FunctionDef)]


@pytest.mark.parametrize("command", sorted({each for each in commands() if each.startswith(PARSED)}))
def test_its_own_program_accepts_a_command(command: str) -> None:
    assert refused_by(shlex.split(command)) == ""


def test_what_its_commands_leave_in_a_checkout_is_never_committed() -> None:
    """Passwords, above all: those of `secret.sh`, of `train.sbatch` and of `prepare.sh`."""
    left = ["broker-gsm8k/actor.password", "broker-gsm8k/users.acl", "deploy/compose/secrets/actor.password"]
    left += ["deploy/compose/.env", "deploy/compose/runs/pair/run.toml", "runs/gsm8k/run.json", "bench-gpu.json"]
    left += ["isentrope-12.log", "isentrope-actors-12-1.log", "slurm-logs/gsm8k-12-0/redis.log"]
    told = subprocess.run(["git", "check-ignore", *left], cwd=DEPLOY.parent, capture_output=True, text=True)
    if told.returncode == 128:
        pytest.skip(told.stderr)
    assert told.stdout.split() == left


@pytest.mark.parametrize(
    "command", ["docker build --filee x .", "kubectl delete pod x --namespac y", "kubectl drian x"]
)
def test_a_planted_mistake_is_refused(command: str) -> None:
    assert refused_by(shlex.split(command)) != ""

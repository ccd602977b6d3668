"""The check of NCCL, with Gloo in its place: two nodes of one process each."""

import os
import socket
import subprocess

import pytest
from deploy_files import DEPLOY

SCRIPT = DEPLOY / "checks" / "nccl.sh"


def _start(number: str, port: int, **more: str) -> "subprocess.Popen[str]":
    own = {"BACKEND": "gloo", "PROCESSES": "1", "PORT": str(port), "NUMBERS": "4096", "GLOO_SOCKET_IFNAME": "lo"}
    command = [str(SCRIPT), "2", number, "127.0.0.1"]
    return subprocess.Popen(
        command, env=os.environ | own | more, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True
    )


@pytest.mark.soak
def test_two_nodes_agree() -> None:
    with socket.create_server(("127.0.0.1", 0)) as free:
        port = free.getsockname()[1]
    nodes = [_start(number, port) for number in ("0", "1")]
    said = [node.communicate(timeout=300)[0] for node in nodes]
    assert [node.returncode for node in nodes] == [0, 0], said
    assert "all results are right" in said[0] and "rank 1 of 2" in said[1]


def test_without_slurm_or_arguments_the_usage_is_told() -> None:
    done = subprocess.run([SCRIPT], env={"PATH": os.environ["PATH"]}, capture_output=True, text=True)
    assert done.returncode == 64 and "usage: srun" in done.stderr

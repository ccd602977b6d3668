"""The actors of one machine are kept up, each on GPUs of its own, until they leave."""

import os
import signal
import subprocess
import sys
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st
from waits import wait_until, wait_until_gone
from wire_records import ASYNC, make_spec

from isentrope.errors import ConfigError
from isentrope.launch.per_gpu import Machine, Members, join, shares
from isentrope.rollout.broker.connection import Broker
from isentrope.rollout.broker.learner_port import LearnerPort

NOTE = "import os, pathlib, sys; folder = pathlib.Path(sys.argv[1]); (folder / str(os.getpid())).touch();"
"""Each process leaves its id."""


@given(devices=st.lists(st.integers(0, 99).map(str), min_size=1, max_size=9, unique=True), each=st.integers(1, 4))
def test_each_device_is_used_by_one_actor_at_most_and_each_actor_has_enough(devices: list[str], each: int) -> None:
    if each > len(devices):
        with pytest.raises(ConfigError, match=f"needs {each} GPUs, and this machine shows {len(devices)}"):
            shares(devices, each)
        return
    found = [share.split(",") for share in shares(devices, each)]
    assert all(len(share) == each for share in found)
    assert [device for share in found for device in share] == devices[: len(devices) // each * each]


def members(folder: Path, *programs: str, stopped_code: int = 0) -> Members:
    made = Members(stopped_code=stopped_code)
    for program in programs:
        made.add([sys.executable, "-c", NOTE + program, str(folder)], os.environ)
    return made


def started(folder: Path) -> list[int]:
    return [int(path.name) for path in folder.iterdir() if path.name.isdecimal()]


def test_one_that_has_left_stays_away(tmp_path: Path) -> None:
    assert members(tmp_path, "pass", "pass").run() == 0
    assert len(started(tmp_path)) == 2


def test_one_that_failed_is_started_again_until_it_leaves(tmp_path: Path) -> None:
    fails_once = "sys.exit(69 if len(list(folder.iterdir())) == 1 else 0)"
    assert members(tmp_path, fails_once).run() == 0
    assert len(started(tmp_path)) == 2


@pytest.mark.parametrize("code", [64, 65, 73, 77])
def test_an_error_that_a_new_start_does_not_mend_is_passed_on(tmp_path: Path, code: int) -> None:
    assert members(tmp_path, f"sys.exit({code})").run() == code
    assert len(started(tmp_path)) == 1


@pytest.mark.parametrize(("other", "code"), [("pass", 80), ("sys.exit(65)", 65)])
def test_one_that_was_stopped_stays_away_and_is_told_unless_another_failed(
    tmp_path: Path, other: str, code: int
) -> None:
    assert members(tmp_path, "sys.exit(80)", other, stopped_code=80).run() == code
    assert len(started(tmp_path)) == 2


PARENT = """
import os, sys
from isentrope.launch.per_gpu import Members

made = Members()
for _ in range(2):
    made.add([sys.executable, "-c", sys.argv[1], sys.argv[2]], os.environ)
sys.exit(made.run())
"""


@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGINT])
def test_a_signal_is_passed_on_and_nobody_is_started_again(tmp_path: Path, number: signal.Signals) -> None:
    program = "import os, pathlib, signal, sys, time;"
    program += f"signal.signal({int(number)}, lambda *_: os._exit(69));" + NOTE + "time.sleep(100_000)"
    parent = subprocess.Popen([sys.executable, "-c", PARENT, program, str(tmp_path)], start_new_session=True)
    wait_until(lambda: len(started(tmp_path)) == 2, "two actors")
    parent.send_signal(number)
    assert parent.wait() == 0
    wait_until_gone(*started(tmp_path))
    assert len(started(tmp_path)) == 2


def test_a_machine_without_gpus_is_told_so_by_what_an_actor_of_the_run_needs(
    redis_server: str, run_name: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("CUDA_VISIBLE_DEVICES", "")
    broker = Broker.connect(redis_server, run_name)
    LearnerPort.fence(broker, 1, 0, 0, make_spec(run_name, actors={"tensor_parallel_size": 2}), ASYNC)
    broker.close()
    with pytest.raises(ConfigError, match="needs 2 GPUs, and this machine shows 0"):
        join(Machine(redis_server, run_name, "", False))

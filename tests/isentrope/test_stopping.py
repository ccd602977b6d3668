"""A run is asked to end by its own way, and only the process that runs it gets a signal."""

import io
import json
import os
import subprocess
import sys
from pathlib import Path

import psutil
import pytest
from rich.console import Console
from run_states import run_in
from waits import wait_until
from wire_records import ASYNC, make_spec

from isentrope import runfolder
from isentrope.errors import RunFolderError, StalledError, UnreachableError
from isentrope.rollout.broker.connection import Broker
from isentrope.rollout.broker.learner_port import LearnerPort
from isentrope.stopping import stop

COMMAND = """
import os, signal, sys, time
from pathlib import Path
from run_records import make_outcome, make_run_record
from isentrope.learner import json_files
from isentrope import runfolder
from isentrope.launch.interrupts import Interrupts
folder = Path(sys.argv[1])
with Interrupts() as interrupts:
    claimed = runfolder.RunFolder.claim(folder, config_digest="c", data_digest="d")
    claimed.begin(make_run_record(run="mine", pid=os.getpid(), host=runfolder.host(), started=time.time()))
    while not interrupts.asked:
        time.sleep(0.02)
    json_files.write(folder, make_outcome(status="stopped", batches=0))
    claimed.release()
"""


def _stop(folder: Path, *, as_json: bool = False, timeout_s: float = 240.0) -> str:
    out = io.StringIO()
    assert stop(folder, timeout_s, as_json, Console(file=out, width=300)) == 0
    return out.getvalue()


def test_the_command_gets_sigterm_and_its_end_is_told(tmp_path: Path) -> None:
    folder = tmp_path / "run"
    environment = os.environ | {"PYTHONPATH": os.pathsep.join(sys.path)}
    with subprocess.Popen([sys.executable, "-c", COMMAND, str(folder)], env=environment) as process:
        wait_until(lambda: (folder / "run.json").exists(), "the command")
        told = json.loads(_stop(folder, as_json=True))
        assert process.wait(240) == 0
    assert told == {"run": "mine", "was_running": True, "state": "stopped", "batches": 0, "folder": str(folder)}


@pytest.mark.parametrize("state", ["finished", "stopped", "error", "dead"])
def test_a_run_that_has_ended_stays_as_it_is(tmp_path: Path, state: str) -> None:
    with run_in(state, tmp_path / "run", pid=os.getpid(), host=runfolder.host(), started=1e12) as folder:
        assert f"was not running: {state} after 3 batches" in _stop(folder)


def test_a_damaged_folder_is_refused(tmp_path: Path) -> None:
    with run_in("damaged", tmp_path / "run") as folder, pytest.raises(RunFolderError, match="damaged"):
        _stop(folder)


def test_a_later_process_with_the_number_gets_no_signal(tmp_path: Path) -> None:
    """This very process, which began after the record says that the command did."""
    before = psutil.Process().create_time() - 3600
    facts = {"pid": os.getpid(), "host": runfolder.host(), "started": before, "socket": str(tmp_path / "none")}
    with run_in("running", tmp_path / "run", **facts) as folder, pytest.raises(UnreachableError):
        _stop(folder)


def test_a_command_on_another_machine_is_reached_through_the_broker(
    tmp_path: Path, redis_server: str, run_name: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("ISENTROPE_REDIS_URL", redis_server)
    facts = {"run": run_name, "host": "elsewhere", "url_env": "ISENTROPE_REDIS_URL"}
    broker = Broker.connect(redis_server, run_name)
    with run_in("running", tmp_path / "run", **facts) as folder:
        with pytest.raises(UnreachableError, match="its command is on elsewhere"):
            _stop(folder)
        learner = LearnerPort.fence(broker, 1, 0, 0, make_spec(run_name), ASYNC)
        with pytest.raises(StalledError, match="still runs after"):
            _stop(folder, timeout_s=0.0)
        assert learner.control().requested_stop
        looks = 0

        def is_held(path: Path) -> bool:
            """The broker loses what it was asked between the first two looks; the run ends after the second."""
            nonlocal looks
            looks += 1
            if looks == 2:
                broker.run(lambda client: client.delete(broker.keys.request))
            return looks <= 2

        monkeypatch.setattr(runfolder, "is_held", is_held)
        _stop(folder)
    assert learner.control().requested_stop, "it is asked again"
    broker.close()

"""The commands of other machines: the depot over a run's folder, and what they refuse."""

import os
import signal
import subprocess
import sys
from pathlib import Path

import pytest
from depot_kinds import make_version
from run_records import make_run_record
from wire_records import ASYNC, make_spec, make_weights

from isentrope.errors import AccessError, ConfigError
from isentrope.joining import JoinOptions, join
from isentrope.launch.broker import Place
from isentrope.launch.depot import depot_token, offered, served
from isentrope.launch.machines import versions
from isentrope.learner import json_files
from isentrope.learner.records import RUN_SCHEMA
from isentrope.rollout.broker.access import Role
from isentrope.rollout.broker.connection import Broker
from isentrope.rollout.broker.learner_port import LearnerPort
from isentrope.rollout.depot.access import Access
from isentrope.rollout.depot.interface import open_depot
from isentrope.rollout.depot.server import Address
from isentrope.rollout.wire.control import RunState
from isentrope.rollout.wire.spec import Bundle

URL = "redis://:pass%20word@10.0.0.1:6379"


@pytest.fixture
def run(tmp_path: Path) -> Path:
    """The folder of a run with one version."""
    make_version(tmp_path)
    json_files.write(tmp_path, make_run_record(run="mine", url_env="ISENTROPE_REDIS_URL", schema_version=RUN_SCHEMA))
    return tmp_path


def test_a_runs_published_files_are_offered_until_a_signal(run: Path) -> None:
    command = [sys.executable, "-m", "isentrope", "depot", str(run), "--bind", "127.0.0.1:0"]
    environment = os.environ | {"ISENTROPE_REDIS_URL": URL}
    with subprocess.Popen(command, env=environment, stdout=subprocess.PIPE, text=True) as process:
        assert process.stdout is not None
        line = process.stdout.readline()
        url = line.rpartition(" ")[2].strip()
        try:
            manifest = next((run / "weights").glob("*/manifest.json"))
            name = str(manifest.relative_to(run))
            access = Access(depot_token(URL, "mine"))
            assert open_depot(url, access).read(name, 0, 1 << 20) == manifest.read_bytes(), line
            with pytest.raises(AccessError):
                open_depot(url).read(name, 0, 1)
        finally:
            process.send_signal(signal.SIGTERM)
        assert process.wait(60) == 0


def test_the_token_follows_from_the_password_or_is_set(monkeypatch: pytest.MonkeyPatch) -> None:
    assert depot_token(URL, "mine") == depot_token("unix://:pass%20word@/socket", "mine") != ""
    assert depot_token("redis://10.0.0.1", "mine") == depot_token("", "mine") == depot_token("no url", "mine") == ""
    monkeypatch.setenv("ISENTROPE_DEPOT_TOKEN", "own")
    assert depot_token(URL, "mine") == "own"


def test_other_machines_are_not_served_without_a_token(tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match=r"whoever reaches 10\.0\.0\.1:8800"):
        served(tmp_path, Address("10.0.0.1", 8800), "", insecure=False).__enter__()


def test_what_a_run_serves_is_announced(tmp_path: Path) -> None:
    place = Place(dict.fromkeys(Role, URL), "")
    with offered(tmp_path, "", "token", place, insecure=False) as urls:
        assert urls == []
    with offered(tmp_path, "127.0.0.1:0", "token", place, insecure=False) as urls:
        assert urls[0].startswith("http://127.0.0.1:")
    with offered(tmp_path, "0.0.0.0:0", "token", place, insecure=False) as urls:
        assert "0.0.0.0" not in urls[0]


def test_a_private_broker_and_a_depot_for_others_contradict(tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match="private broker"):
        offered(tmp_path, "127.0.0.1:0", "", Place({}, "/s"), insecure=False).__enter__()


def _joined(url: str, run: str, *more: str) -> "subprocess.CompletedProcess[str]":
    command = [sys.executable, "-m", "isentrope", "actor", "--run", run, *more]
    return subprocess.run(command, env=os.environ | {"ISENTROPE_REDIS_URL": url}, capture_output=True, text=True)


@pytest.mark.parametrize("name", ["isentrope", "vllm", "ray", "Python"])
def test_an_actor_of_another_version_is_refused_and_leaves_no_trace(
    redis_server: str, run_name: str, name: str
) -> None:
    broker = Broker.connect(redis_server, run_name)
    spec = make_spec(run_name, versions=versions() | {name: "0.0.1", "unknown here": "1"})
    learner = LearnerPort.fence(broker, 1, 0, 0, spec, ASYNC)
    learner.announce(make_weights())
    learner.issue(trained_batches=0, retired=0, limit=8)
    before = learner.view.queues()
    done = _joined(redis_server, run_name)
    assert done.returncode == 64, done.stderr
    assert f"has {name} {versions()[name]}, and run '{run_name}' {name} 0.0.1" in done.stderr
    assert "Traceback" not in done.stderr
    assert (learner.view.actors(), learner.view.queues()) == ([], before)
    broker.close()


@pytest.mark.slow
@pytest.mark.parametrize(("goes_on", "code"), [(True, 80), (False, 0)])
def test_a_scheduler_is_told_whether_another_actor_is_needed(
    redis_server: str, run_name: str, tmp_path: Path, goes_on: bool, code: int
) -> None:
    broker = Broker.connect(redis_server, run_name)
    learner = LearnerPort.fence(broker, 1, 0, 0, make_spec(run_name, output_dir=str(tmp_path)), ASYNC)
    learner.set_control(ASYNC.model_copy(update={"state": RunState.STOP, "goes_on": goes_on}))
    done = _joined(redis_server, run_name, "--stopped-code", "80")
    assert (done.returncode, learner.view.actors()) == (code, []), done.stderr
    broker.close()


@pytest.mark.slow
def test_an_actor_that_comes_while_a_run_begins_again_waits_for_its_new_facts(
    redis_server: str, run_name: str, tmp_path: Path
) -> None:
    """The bundle of its last start is deleted by then, and the actor would be refused for good."""
    broker = Broker.connect(redis_server, run_name)
    gone = Bundle(digest="0" * 64, size_bytes=1, run_folder="run")
    LearnerPort.fence(broker, 1, 0, 0, make_spec(run_name, output_dir=str(tmp_path), bundle=gone), ASYNC)
    broker.run(lambda client: client.delete(broker.keys.ctl))  # as the command does
    command = [sys.executable, "-m", "isentrope", "actor", "--run", run_name]
    environment = os.environ | {"ISENTROPE_REDIS_URL": redis_server}
    with subprocess.Popen(command, env=environment, stderr=subprocess.PIPE, text=True) as process:
        assert process.stderr is not None
        said = []
        for line in process.stderr:
            said.append(line)
            if "a learner to open run" in line:
                break
        stopped = ASYNC.model_copy(update={"state": RunState.STOP})
        LearnerPort.fence(broker, 2, 0, 0, make_spec(run_name, output_dir=str(tmp_path)), stopped)
        said.append(process.stderr.read())
        assert process.wait(60) == 0, "".join(said)
    broker.close()


def test_a_scheduler_is_told_of_an_actor_that_a_signal_has_ended(redis_server: str, run_name: str) -> None:
    """Here while it waits for a learner to open the run."""
    command = [sys.executable, "-m", "isentrope", "actor", "--run", run_name, "--stopped-code", "80"]
    environment = os.environ | {"ISENTROPE_REDIS_URL": redis_server}
    with subprocess.Popen(command, env=environment, stderr=subprocess.PIPE, text=True) as process:
        assert process.stderr is not None
        seen = next(line for line in process.stderr if "a learner to open run" in line)
        process.send_signal(signal.SIGTERM)
        assert process.wait(60) == 80, seen


def test_an_actor_of_a_release_that_knows_other_facts_is_refused(redis_server: str, run_name: str) -> None:
    broker = Broker.connect(redis_server, run_name)
    spec = make_spec(run_name, versions={"isentrope": "9.0"}).model_dump_json()
    broker.run(lambda client: client.set(broker.keys.meta, spec.replace('"vocab_size"', '"vocabulary"')))
    broker.run(lambda client: client.set(broker.keys.ctl, "what that release writes"))
    done = _joined(redis_server, run_name)
    assert done.returncode == 64 and "was opened by isentrope 9.0" in done.stderr, done.stderr
    broker.close()


def test_a_depot_with_credentials_in_its_url_is_refused() -> None:
    with pytest.raises(ConfigError, match="holds credentials"):
        join(JoinOptions("mine", redis="redis://10.0.0.1", depot="http://user:secret@host"))


def test_a_password_among_the_arguments_is_refused() -> None:
    with pytest.raises(ConfigError, match="list of processes") as caught:
        join(JoinOptions("mine", redis=URL))
    assert "pass%20word" not in str(caught.value)

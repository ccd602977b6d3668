"""What a run does is read from its broker while it lives, from its folder afterwards; modes change on request."""

import io
import json
import socket
import threading
from collections.abc import Iterator
from pathlib import Path

import pytest
from kept_batches import make_batch
from rich.console import Console
from run_records import make_outcome, make_row, make_run_record
from run_states import run_in
from waits import wait_until
from wire_records import ASYNC, make_actor_port, make_spec, make_weights

from isentrope import commands, report, runfolder
from isentrope import status as status_command
from isentrope.errors import ConfigError, DataError, RewardError, RunFolderError, UnreachableError
from isentrope.learner import json_files
from isentrope.learner.measures import RaisedAlarm
from isentrope.learner.placement_record import PlacedRecord, PlacementRecord
from isentrope.learner.records import BatchRow
from isentrope.learner.training.dead_letters import DeadLetters
from isentrope.rollout.broker.connection import Broker
from isentrope.rollout.broker.learner_port import LearnerPort
from isentrope.rollout.broker.learner_state import HEARTBEAT, LearnerState, RankState
from isentrope.rollout.broker.run_view import ActorStage, ActorState, RunView
from isentrope.rollout.wire.control import Mode
from isentrope.rollout.wire.types import version_of
from isentrope.runfolder import RunFolder
from isentrope.status import Status, read_status, show

URL = "ISENTROPE_TEST_URL"


@pytest.fixture
def folder(tmp_path: Path, redis_server: str, run_name: str, monkeypatch: pytest.MonkeyPatch) -> Iterator[Path]:
    """Folder of a run whose command lives."""
    monkeypatch.setenv(URL, redis_server)
    record = make_run_record(run=run_name, url_env=URL)
    with RunFolder.claim(tmp_path / "run", config_digest="c", data_digest="d") as claimed:
        claimed.begin(record)
        yield claimed.path


@pytest.fixture
def learner(redis_server: str, run_name: str) -> Iterator[LearnerPort]:
    broker = Broker.connect(redis_server, run_name)
    yield LearnerPort.fence(broker, 1, 0, 0, make_spec(run_name), ASYNC)
    broker.close()


def _text(status: Status) -> str:
    out = io.StringIO()
    show(status, Console(file=out, width=200))
    return out.getvalue()


def test_run_that_no_learner_has_opened_is_starting(folder: Path) -> None:
    status = read_status(folder)
    assert status.live is None and status.command_alive
    assert "starting" in _text(status) and "no learner has opened the run" in _text(status)


def test_live_run_shows_mode_counts_and_actors(folder: Path, learner: LearnerPort, redis_server: str) -> None:
    learner.announce(make_weights())
    learner.issue(trained_batches=0, retired=0, limit=1000)
    learner.report({"retired": 3, "retired:stale": 1, "retired:too_long": 2, "failed:reward": 4})
    broker = Broker.connect(redis_server, learner.spec.run)
    actor = make_actor_port(broker, "a1")
    actor.heartbeat(
        ActorState(id="a1", host="box", pid=7, state=ActorStage.SERVING, version=version_of(1, 0), leases=3)
    )
    broker.close()
    (folder / BatchRow.FILE).write_text(json.dumps(make_row(4).to_json()) + "\n")
    status = read_status(folder)
    assert status.live is not None and status.last_batch is not None
    assert (status.live.mode, status.live.state, status.last_batch.batch) == ("async", "run", 4)
    assert status.live.counters["issued"] > 0 and [actor.id for actor in status.live.actors] == ["a1"]
    text = _text(status)
    assert "batch 4 of 10: reward 0.500, entropy 0.250" in text
    assert "3 retired (2 too_long, 1 stale)" in text and "failed responses: 4 reward" in text
    assert f"{status.live.counters['issued']:,} issued" in text and "box 7" in text and "1.0" in text


HOSTILE = "[/bold] [red]x[/red] <b>[link=file:///]\x1b[2J\x1b]0;title\x07"


def test_whatever_a_run_and_its_actors_say_is_shown_as_text(
    folder: Path, learner: LearnerPort, redis_server: str
) -> None:
    """A chat template's tokens are brackets too, and the outcome quotes them."""
    learner.announce(make_weights())
    learner.report({f"retired:{HOSTILE}": 1, f"failed:{HOSTILE}": 1})
    broker = Broker.connect(redis_server, learner.spec.run)
    actor = make_actor_port(broker, "a1")
    actor.heartbeat(ActorState(id="a1", host=HOSTILE, last_error=HOSTILE, state=ActorStage.DIRTY))
    broker.close()
    json_files.write(folder, make_outcome().ended_by(DataError(HOSTILE)))
    text = _text(read_status(folder))
    assert text.count("[red]x[/red]") >= 4
    assert not set(text) & {"\x1b", "\x07"}


def test_dead_letters_and_actors_in_quarantine_are_shown(folder: Path, learner: LearnerPort) -> None:
    learner.announce(make_weights())
    learner.heartbeat(LearnerState(quarantined={"a7": "3 of its records were refused, the last for crc (payload)"}))
    DeadLetters(folder).write(make_batch(3), incarnation=1, deaths=2)
    text = _text(read_status(folder))
    assert "a7 is in quarantine: 3 of its records were refused, the last for crc (payload)" in text
    assert "dead letters: 1; see `isentrope dlq list`" in text


def test_a_silent_learner_is_named(folder: Path, learner: LearnerPort) -> None:
    learner.announce(make_weights())
    record = LearnerState(incarnation=1, doing="train", ranks=(RankState(rank=0, place="box, pid 7"),), at_ms=1)
    learner.broker.run(lambda client: client.hset(learner.broker.keys.metrics, HEARTBEAT, record.model_dump_json()))
    assert "learner (box, pid 7) is silent for" in _text(read_status(folder))
    learner.heartbeat(record)
    assert "is silent" not in _text(read_status(folder))


def test_a_silent_broker_is_named(folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(status_command, "DEADLINE_S", 0.5)
    with socket.create_server(("127.0.0.1", 0)) as deaf:
        place = f"127.0.0.1:{deaf.getsockname()[1]}"
        monkeypatch.setenv(URL, f"redis://{place}")
        status = read_status(folder)
    assert status.live is None and place in status.unreachable and place in _text(status)


def test_actors_without_room_are_shown_while_the_command_lives(folder: Path, learner: LearnerPort) -> None:
    placed = PlacementRecord(
        wanted=2,
        waits="waits for room: 1 actor of 1 GPU, free 0",
        actors={"a1": PlacedRecord(state="serving", host="n1"), "a2": PlacedRecord(state="placing", host="")},
    )
    json_files.write(folder, placed)
    status = read_status(folder)
    assert status.placement == placed and placed.waits in _text(status)
    out = io.StringIO()
    commands.show_status(folder, True, Console(file=out))
    assert json.loads(out.getvalue())["placement"]["actors"]["a2"] == {"state": "placing", "host": ""}


def test_alarms_of_the_whole_run_are_shown(folder: Path) -> None:
    raised = {"ratio_max": RaisedAlarm(value=1476.0, bound=100.0)}
    rows = [make_row(1), make_row(2, alarms=raised), make_row(3)]
    (folder / BatchRow.FILE).write_text("".join(json.dumps(row.to_json()) + "\n" for row in rows))
    status = read_status(folder)
    assert {name: (each.first, each.batches) for name, each in status.alarms.items()} == {"ratio_max": (2, 1)}
    assert "Alarm in 1 batch, first in batch 2: at worst the largest ratio is 1.48e+03" in _text(status)


def test_a_damaged_line_of_metrics_costs_itself_alone(folder: Path) -> None:
    raised = {"ratio_max": RaisedAlarm(value=1476.0, bound=100.0)}
    rows = [json.dumps(make_row(1, alarms=raised).to_json()), '{"alarms": 3}', json.dumps(make_row(3).to_json()), "{"]
    (folder / BatchRow.FILE).write_text("".join(f"{row}\n" for row in rows))
    status = read_status(folder)
    assert status.last_batch is not None and status.last_batch.batch == 3
    assert {name: each.batches for name, each in status.alarms.items()} == {"ratio_max": 1}


def test_json_holds_the_same_as_the_record(folder: Path, learner: LearnerPort) -> None:
    out = io.StringIO()
    commands.show_status(folder, True, Console(file=out))
    assert Status.model_validate_json(out.getvalue()).live == read_status(folder).live


def test_watching_shows_it_until_its_command_has_ended(folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    alive = iter([True, True, False])
    monkeypatch.setattr(runfolder, "is_held", lambda path: next(alive))
    monkeypatch.setattr(commands, "WATCH_S", 0.0)
    out = io.StringIO()
    assert commands.show_status(folder, True, Console(file=out, width=20), watch=True) == 0
    assert out.getvalue().count('"command_alive": true') == 2 and next(alive, None) is None


@pytest.mark.parametrize("state", ["running", "finished", "stopped", "error", "dead"])
def test_a_folder_in_every_state_is_told(tmp_path: Path, state: str) -> None:
    with run_in(state, tmp_path / state) as place:
        status = read_status(place)
        assert status.command_alive == (state == "running") and status.last_batch is not None
        words = {"running": "starting", "dead": "interrupted"}
        assert words.get(state, f"{state} after 3 batches") in _text(status)


def test_a_damaged_folder_is_refused(tmp_path: Path) -> None:
    with run_in("damaged", tmp_path / "run") as place, pytest.raises(RunFolderError, match="damaged"):
        read_status(place)


def test_run_whose_command_died_says_how_to_go_on(folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv(URL)
    monkeypatch.setattr(runfolder, "is_held", lambda path: False)
    status = read_status(folder)
    assert "interrupted; the same command continues it" in _text(status)
    assert f"{URL} is not set" in _text(status)


def test_ended_run_tells_how_it_ended(folder: Path) -> None:
    json_files.write(folder, make_outcome(batches=3).ended_by(RewardError("reward broke")))
    assert "error after 3 batches: reward broke" in _text(read_status(folder))


def test_finished_run_names_its_report_and_not_its_broker(folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(runfolder, "is_held", lambda path: False)
    monkeypatch.delenv(URL)
    json_files.write(folder, make_outcome(status="finished", batches=10))
    report.write(folder)
    text = _text(read_status(folder))
    assert "finished after 10 batches" in text and f"report: {folder / 'report.html'}" in text
    assert URL not in text


class _Answering:
    """A learner that answers the next request; a context manager."""

    def __init__(self, learner: LearnerPort, refuse: str = "") -> None:
        self._learner = learner
        self._refuse = refuse
        self._thread = threading.Thread(target=self._answer)

    def __enter__(self) -> None:
        self._thread.start()

    def __exit__(self, *exc: object) -> None:
        self._thread.join()

    def _answer(self) -> None:
        wait_until(lambda: self._learner.control().requested_mode, "a request")
        control = self._learner.control()
        changes = {"note": self._refuse} if self._refuse else {"mode": control.requested_mode}
        self._learner.set_control(control.model_copy(update={**changes, "requested_mode": None}))


def test_mode_waits_for_the_learner_to_apply_it(folder: Path, learner: LearnerPort) -> None:
    out = io.StringIO()
    with _Answering(learner):
        assert commands.switch_mode("on_policy", folder, Console(file=out, width=200)) == 0
    assert "is on_policy" in out.getvalue() and learner.control().mode is Mode.ON_POLICY


def test_mode_is_asked_again_of_a_broker_that_has_lost_it(folder: Path, learner: LearnerPort) -> None:
    broker = learner.broker
    asking = threading.Thread(target=commands.switch_mode, args=("on_policy", folder, Console(file=io.StringIO())))
    asking.start()
    wait_until(lambda: learner.control().requested_mode, "a request")
    broker.run(lambda client: client.delete(broker.keys.ctl, broker.keys.request))
    learner.refence(newest_claim=1, lwm=0, cursor=0)
    with _Answering(learner):
        asking.join()
    assert learner.control().mode is Mode.ON_POLICY


def test_mode_that_another_operator_replaces_says_so(
    folder: Path, learner: LearnerPort, monkeypatch: pytest.MonkeyPatch
) -> None:
    request = learner.view.request
    monkeypatch.setattr(RunView, "request", lambda view, verb: [request(verb), request("stop")][0])
    with pytest.raises(ConfigError, match="another request has replaced this one"):
        commands.switch_mode("on_policy", folder, Console(file=io.StringIO()))


def test_refused_mode_says_why_and_changes_nothing(folder: Path, learner: LearnerPort) -> None:
    with _Answering(learner, refuse="KL would be 0"), pytest.raises(ConfigError, match="KL would be 0"):
        commands.switch_mode("on_policy", folder, Console(file=io.StringIO()))
    assert learner.control().mode is Mode.ASYNC


def test_mode_of_a_run_without_learner_cannot_change(folder: Path) -> None:
    with pytest.raises(UnreachableError, match="no learner has opened"):
        commands.switch_mode("on_policy", folder, Console(file=io.StringIO()))

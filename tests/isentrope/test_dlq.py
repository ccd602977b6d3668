"""The command `dlq`: what it prints of a folder and of a broker, what it asks for, and how it refuses."""

import io
import json
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest
from kept_batches import make_batch
from rich.console import Console
from run_records import make_outcome
from run_states import STATES, run_in
from wire_records import ASYNC, make_spec

from isentrope import cli, dlq
from isentrope.errors import ConfigError, RunFolderError, UnreachableError
from isentrope.learner import json_files
from isentrope.learner.training.dead_letters import LETTERS, DeadLetters
from isentrope.rollout.broker.connection import Broker
from isentrope.rollout.broker.learner_port import LearnerPort
from isentrope.rollout.wire.control import RunState
from isentrope.run_place import RunPlace


@pytest.fixture
def run(tmp_path: Path) -> Iterator[Path]:
    with run_in("dead", tmp_path / "run") as folder:
        letters = DeadLetters(folder)
        for number in (3, 7):
            letters.write(make_batch(number), incarnation=2, deaths=2)
        yield folder


@pytest.fixture
def port(redis_server: str, run_name: str, run: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[LearnerPort]:
    """A learner that has told the broker of them."""
    monkeypatch.setenv("ISENTROPE_REDIS_URL", redis_server)
    broker = Broker.connect(redis_server, run_name)
    port = LearnerPort.fence(broker, 1, 0, 0, make_spec(run_name), ASYNC)
    port.show_dead_letters(LETTERS.dump_json(DeadLetters(run).letters()).decode())
    yield port
    broker.close()


def command(monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str], *arguments: object) -> tuple[int, str]:
    """Exit code and output."""
    monkeypatch.setattr(sys, "argv", ["isentrope", "dlq", *map(str, arguments)])
    with pytest.raises(SystemExit) as ended:
        cli.main()
    told = capsys.readouterr()
    return int(ended.value.code or 0), told.out + told.err


@pytest.mark.parametrize("by_name", [False, True])
def test_letters_are_listed_and_shown(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str], run: Path, port: LearnerPort, by_name: bool
) -> None:
    where = ("--run", port.spec.run) if by_name else (run,)
    code, text = command(monkeypatch, capsys, "list", *where)
    assert code == 0 and "3-2-" in text and "7-2-" in text
    code, text = command(monkeypatch, capsys, "list", *where, "--json")
    assert [letter["batch"] for letter in json.loads(text)] == [3, 7]
    code, text = command(monkeypatch, capsys, "show", "7-", *where, "--json")
    groups = json.loads(text)["groups"]
    assert [group["seq"] for group in groups] == [70, 71]
    assert [group["longest"] is None for group in groups] == [by_name] * 2
    code, text = command(monkeypatch, capsys, "show", "7-", *where)
    assert code == 0 and "2 deaths" in text and " 71 " in f" {text} ".replace("\n", " ")


def test_a_requeue_marks_the_folder_once(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str], run: Path
) -> None:
    code, text = command(monkeypatch, capsys, "requeue", "3-", run, "--seq", 31, "--json")
    assert code == 0 and json.loads(text)["requeued"] == [31]
    assert list(DeadLetters(run).requeues().values()) == [31]
    code, text = command(monkeypatch, capsys, "requeue", "3-", run, "--json")
    answer = json.loads(text)
    assert (answer["requeued"], answer["before"]) == ([30], [31])
    code, text = command(monkeypatch, capsys, "requeue", "3-", run)
    assert code == 0 and "0 groups" in text and "2 were requeued before" in text


def test_a_requeue_in_a_run_that_has_ended_says_when_it_is_carried_out(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str], run: Path, port: LearnerPort
) -> None:
    json_files.write(run, make_outcome(status="finished", batches=3))
    _, text = command(monkeypatch, capsys, "requeue", "3-", run)
    assert "2 groups of 3-2-" in text and "the run has ended: where it goes on with more batches" in " ".join(
        text.split()
    )
    _, text = command(monkeypatch, capsys, "requeue", "7-", "--run", port.spec.run, "--json")
    assert json.loads(text)["ended"] is False
    port.set_control(ASYNC.model_copy(update={"state": RunState.STOP}))
    _, text = command(monkeypatch, capsys, "requeue", "7-", "--run", port.spec.run, "--json")
    assert json.loads(text)["ended"] is True


def test_a_requeue_by_name_asks_the_learner(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str], run: Path, port: LearnerPort
) -> None:
    code, text = command(monkeypatch, capsys, "requeue", "3-", "--run", port.spec.run)
    assert code == 0 and "2 groups of 3-2-" in text
    assert [name.rpartition(".")[2] for name in port.view.requeues()] == ["30", "31"]
    assert DeadLetters(run).requeues() == {}


@pytest.mark.parametrize(
    ("arguments", "told"),
    [
        (("show", "9"), "no dead letter '9'"),
        (("show", ""), "2 dead letters begin with ''"),
        (("requeue", "3-", "--seq", "70"), "group 70 is not in dead letter 3-2-"),
        (("requeue", "x"), "no dead letter 'x'"),
    ],
)
def test_what_is_not_there_is_refused_with_what_is(
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
    run: Path,
    arguments: tuple[str, ...],
    told: str,
) -> None:
    verb, letter, *options = arguments
    code, text = command(monkeypatch, capsys, verb, letter, run, *options)
    assert code == ConfigError.exit_code and told in text and ("3-2-" in text or "30, 31" in text)


def test_a_damaged_letter_is_an_error_where_it_is_shown(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str], run: Path
) -> None:
    first = DeadLetters(run).letters()[0].name
    path = run / "dead_letters" / first
    path.write_bytes(path.read_bytes()[:-1])
    code, text = command(monkeypatch, capsys, "show", first, run)
    assert code == 74 and "damaged" in text


@pytest.mark.parametrize("state", STATES)
def test_a_folder_in_any_state_has_a_list(tmp_path: Path, state: str) -> None:
    with run_in(state, tmp_path / "run") as folder:
        out = io.StringIO()
        assert dlq.list_letters(RunPlace(folder), True, Console(file=out)) == 0
        assert json.loads(out.getvalue()) == []
        with pytest.raises(ConfigError, match="no dead letter") as raised:
            dlq.show_letter(RunPlace(folder), "1", True, Console(file=out))
        assert raised.value.fix == "the run has none"


def test_no_run_is_said(redis_server: str, run_name: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(dlq, "DEADLINE_S", 0.1)
    monkeypatch.setenv("ISENTROPE_REDIS_URL", redis_server)
    console = Console(file=io.StringIO())
    with pytest.raises(UnreachableError, match="no learner has opened run"):
        dlq.list_letters(RunPlace(Path(), name=run_name), False, console)
    with pytest.raises(RunFolderError):
        dlq.list_letters(RunPlace(tmp_path), False, console)

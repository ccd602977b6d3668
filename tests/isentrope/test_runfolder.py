"""A run's folder belongs to one run and to one command at a time, and says where the run can be reached."""

import contextlib
import fcntl
import json
import os
from pathlib import Path

import pytest
from redis.connection import parse_url
from run_records import make_outcome, make_row, make_run_record
from wire_records import ASYNC, make_spec

from isentrope import runfolder
from isentrope.errors import AccessError, ConfigError, RewardError, RunFolderError, StorageError, UnreachableError
from isentrope.learner import json_files
from isentrope.learner.records import RUN_SCHEMA, BatchRow, Outcome, RunRecord
from isentrope.redis_server import BESIDE_SOCKET, RedisServer
from isentrope.resolved import OBJECTIVE, RUN_FILE, ResolvedRun
from isentrope.rollout.broker.access import Role
from isentrope.rollout.broker.connection import Broker
from isentrope.rollout.broker.learner_port import LearnerPort
from isentrope.runfolder import RunFolder


def _record(**changes: str) -> RunRecord:
    return make_run_record(url_env="NO_SUCH_VARIABLE", **changes)


def _claim(path: Path, config: str = "c", data: str = "d") -> RunFolder:
    return RunFolder.claim(path, config_digest=config, data_digest=data)


def test_new_folder_is_made_and_claimed_again_by_the_same_run(tmp_path: Path) -> None:
    path = tmp_path / "deep" / "run"
    with _claim(path) as folder:
        assert folder.is_new
        folder.begin(_record())
        assert not folder.is_new
    with _claim(path) as folder:
        assert not folder.is_new and runfolder.read_record(path) == _record()


@pytest.mark.parametrize(("config", "data", "says"), [("x", "d", "another configuration"), ("c", "x", "another data")])
def test_other_digest_is_refused_and_the_folder_stays_free(tmp_path: Path, config: str, data: str, says: str) -> None:
    with _claim(tmp_path / "run") as folder:
        folder.begin(_record())
    with pytest.raises(RunFolderError, match=says) as raised:
        _claim(tmp_path / "run", config, data)
    assert raised.value.exit_code == 73
    _claim(tmp_path / "run").release()


def test_second_command_is_kept_out_until_the_first_ends(tmp_path: Path) -> None:
    with _claim(tmp_path / "run"):
        assert runfolder.is_held(tmp_path / "run")
        with pytest.raises(RunFolderError, match="another command runs"):
            _claim(tmp_path / "run")
    assert not runfolder.is_held(tmp_path / "run")
    _claim(tmp_path / "run").release()


def test_whoever_only_looks_does_not_keep_a_command_out(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    _claim(tmp_path / "run").release()
    looking = os.open(tmp_path / "run" / runfolder.LOCK, os.O_RDONLY)
    fcntl.flock(looking, fcntl.LOCK_SH)
    monkeypatch.setattr(runfolder.time, "sleep", lambda pause_s: os.close(looking))  # once the command has waited
    _claim(tmp_path / "run").release()


def test_folder_with_other_things_in_it_is_refused(tmp_path: Path) -> None:
    (tmp_path / "thesis.tex").touch()
    with pytest.raises(RunFolderError, match="not a run folder"):
        _claim(tmp_path)
    with pytest.raises(RunFolderError, match="is not a folder"):
        _claim(tmp_path / "thesis.tex")


def test_beginning_forgets_how_the_run_ended_before(tmp_path: Path) -> None:
    with _claim(tmp_path / "run") as folder:
        json_files.write(folder.path, make_outcome(status="finished", batches=10))
        assert folder.is_finished(10) and not folder.is_finished(11) and runfolder.has_ended(folder.path)
        folder.begin(_record())
        assert not folder.is_finished(10) and not runfolder.has_ended(folder.path)


def test_an_error_is_added_to_what_the_learner_wrote(tmp_path: Path) -> None:
    before = make_outcome(batches=3, idle_s=1.5)
    json_files.write(tmp_path, before)
    runfolder.record_error(tmp_path, RewardError("broke", where="here", fix="mend it"))
    after = Outcome.model_validate_json((tmp_path / Outcome.FILE).read_bytes())
    why = {"status": "error", "exit_code": 65, "what": "broke", "where": "here", "fix": "mend it"}
    assert after == before.model_copy(update=why)
    runfolder.record_error(tmp_path, RewardError("another, which followed from it"))
    assert json_files.read(tmp_path, Outcome) == after


@pytest.mark.parametrize("text", ["", "{", "[]", "\ufffd", '{"status": "asleep", "exit_code": 0}'])
def test_an_error_is_recorded_over_an_outcome_that_is_none(tmp_path: Path, text: str) -> None:
    (tmp_path / Outcome.FILE).write_text(text)
    assert not runfolder.has_ended(tmp_path), "the same command goes on"
    runfolder.record_error(tmp_path, RewardError("broke"))
    outcome = json_files.read(tmp_path, Outcome)
    assert outcome is not None and (outcome.status, outcome.what) == ("error", "broke")


def test_a_full_disk_is_told_by_the_file_it_refuses_and_changes_nothing(tmp_path: Path) -> None:
    """Writes to /dev/full end as those to a full disk do."""
    json_files.write(tmp_path, make_outcome(batches=3))
    before = (tmp_path / Outcome.FILE).read_bytes()
    (tmp_path / f"{Outcome.FILE}.tmp").symlink_to("/dev/full")
    with pytest.raises(StorageError, match=r"outcome\.json cannot be written: No space left on device") as caught:
        runfolder.record_error(tmp_path, RewardError("broke"))
    assert caught.value.exit_code == 74 and caught.value.where == str(tmp_path / Outcome.FILE)
    assert "free the disk" in caught.value.fix and (tmp_path / Outcome.FILE).read_bytes() == before


@pytest.mark.parametrize("file", [RunRecord.FILE, RUN_FILE, OBJECTIVE])
def test_a_run_does_not_begin_in_a_folder_that_takes_no_file(tmp_path: Path, file: str) -> None:
    resolved = ResolvedRun("a = 1", "b = 2")
    with RunFolder.claim(tmp_path / "run", config_digest="c", data_digest="d", resolved=resolved) as folder:
        (tmp_path / "run" / f"{file}.tmp").symlink_to("/dev/full")
        with pytest.raises(StorageError, match="No space left on device"):
            folder.begin(_record())
        assert not folder.has_begun


def test_an_error_is_recorded_without_a_learner(tmp_path: Path) -> None:
    runfolder.record_error(tmp_path, RewardError("broke"))
    outcome = json_files.read(tmp_path, Outcome)
    assert outcome is not None and (outcome.status, outcome.exit_code, outcome.batches) == ("error", 65, 0)


def test_an_error_of_a_learner_that_died_has_the_batches_it_trained(tmp_path: Path) -> None:
    rows = [json.dumps(make_row(batch, version=batch).to_json()) + "\n" for batch in (1, 2)]
    for text in "".join(rows), "damaged\n".join(rows), "".join(rows) + "damaged\n":
        (tmp_path / BatchRow.FILE).write_text(text)
        json_files.remove(tmp_path, Outcome)
        runfolder.record_error(tmp_path, RewardError("broke"))
        outcome = json_files.read(tmp_path, Outcome)
        assert outcome is not None and (outcome.what, outcome.batches, outcome.version) == ("broke", 2, 2)


def test_a_run_is_found_by_its_folder_by_its_file_and_by_what_holds_them(tmp_path: Path) -> None:
    for name, began in (("old", 2.0), ("new", 3.0), ("older", 1.0)):
        with _claim(tmp_path / "runs" / name) as folder:
            folder.begin(_record())
        os.utime(tmp_path / "runs" / name / RunRecord.FILE, (began, began))
    newest = tmp_path / "runs" / "new"
    assert [runfolder.find(place) for place in (tmp_path, tmp_path / "runs", newest)] == [newest] * 3
    for text, name in (("name = 'old'", "old"), ("name = 'x'\noutput_dir = 'runs/older'", "older")):
        (tmp_path / "run.toml").write_text(f"[run]\n{text}\n")
        assert runfolder.find(tmp_path / "run.toml") == tmp_path / "runs" / name
    with pytest.raises(RunFolderError, match="is not a run folder"):
        runfolder.find(tmp_path / "runs" / "old" / "logs")
    (tmp_path / "run.toml").write_text("[run]\nname = 'never'\n")
    with pytest.raises(RunFolderError, match=r"the run of .*run\.toml has not been started") as refused:
        runfolder.find(tmp_path / "run.toml")
    assert refused.value.fix == f"isentrope train {tmp_path / 'run.toml'}"


def test_run_that_cannot_be_reached_says_why(tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match="NO_SUCH_VARIABLE is not set"):
        runfolder.open_view(_record(), Role.VIEWER, deadline_s=1.0)
    with pytest.raises(UnreachableError, match="not running"):
        runfolder.open_view(_record(socket=str(tmp_path / "redis.sock")), Role.VIEWER, deadline_s=1.0)


def test_other_commands_reach_a_broker_by_url_with_the_rights_of_their_role(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    with RedisServer(run="demo") as server:
        server.start(tmp_path)
        for role in Role:
            (tmp_path / f"{role}.password").write_text(str(parse_url(server.url_of(role))["password"]))
        monkeypatch.setenv("BROKER", f"unix://{server.socket}")
        record = make_run_record(run="demo", url_env="BROKER", passwords=str(tmp_path))
        with contextlib.closing(Broker.connect(server.url, "demo", deadline_s=10.0)) as admin:
            LearnerPort.fence(admin, 1, 0, 0, make_spec("demo"), ASYNC)
            viewer, operator = (runfolder.open_view(record, role, deadline_s=10.0) for role in BESIDE_SOCKET)
            with contextlib.closing(viewer.broker), contextlib.closing(operator.broker):
                operator.request("stop")
                assert viewer.spec(10.0).run == "demo"
                with pytest.raises(AccessError):
                    viewer.request("stop")


@pytest.mark.parametrize("text", ["", "{", "[]", "{}", '{"schema_version": 2, "run": 3}'])
def test_a_damaged_record_is_told_apart_from_none(tmp_path: Path, text: str) -> None:
    with pytest.raises(RunFolderError, match=r"has no run\.json"):
        runfolder.read_record(tmp_path)
    (tmp_path / RunRecord.FILE).write_text(text)
    with pytest.raises(RunFolderError, match="is damaged: ") as refused:
        runfolder.read_record(tmp_path)
    assert str(tmp_path / RunRecord.FILE) in refused.value.what


def _begun_with(folder: Path, schema: int | None) -> None:
    """Leave a record as a version with this schema writes it, and with a key that this one does not know."""
    values = dict(_record().to_json()) | {"schema_version": schema, "versions": {"isentrope": "9.1"}, "other": 1}
    with _claim(folder):
        (folder / RunRecord.FILE).write_text(json.dumps({k: v for k, v in values.items() if v is not None}))


def test_a_folder_of_a_newer_version_is_refused_by_its_version(tmp_path: Path) -> None:
    _begun_with(tmp_path / "run", RUN_SCHEMA + 1)
    for use in runfolder.read_record, _claim:
        with pytest.raises(RunFolderError, match=r"begun by isentrope 9\.1, whose run folders have schema 3"):
            use(tmp_path / "run")


def test_a_folder_of_the_version_before_is_read_and_not_continued(tmp_path: Path) -> None:
    _begun_with(tmp_path / "run", None)
    assert runfolder.read_record(tmp_path / "run").schema_version == 0
    with pytest.raises(
        RunFolderError, match=r"begun by isentrope 9\.1, and this version cannot continue it"
    ) as refused:
        _claim(tmp_path / "run")
    assert "isentrope export" in refused.value.fix

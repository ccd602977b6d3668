"""What actors and onlookers are told of a run is what the run file says, and holds no secret."""

import time
from collections.abc import Iterator
from pathlib import Path

import pytest

from isentrope.actors.worker import config_of
from isentrope.check.findings import Checked
from isentrope.check.model import Model
from isentrope.config import load
from isentrope.launch.plan import ClaimedRun, make_record, make_spec
from isentrope.rollout.wire.spec import RunSpec
from isentrope.runfolder import RunFolder


@pytest.fixture
def run(run_file: Path) -> Iterator[ClaimedRun]:
    config, file = load(run_file, ["run.seed=7", "actors.count=3", "actors.max_tries=2", "redis.max_bytes=99000000"])
    checked = Checked(config, file, "c", "d", Model(str(run_file.parent / "model"), 46, 128), [])
    with RunFolder.claim(run_file.parent / "out", config_digest="c", data_digest="d") as folder:
        yield ClaimedRun(checked, folder, time.time())


def test_actors_are_told_what_the_run_file_says(run: ClaimedRun) -> None:
    spec = make_spec(run.checked, run.folder.path)
    assert (spec.run, spec.seed, spec.config_digest, spec.vocab_size) == ("mine", 7, "c", 46)
    assert (spec.max_tries, spec.max_bytes, spec.actors["count"]) == (2, 99_000_000, 3)
    assert Path(spec.run_folder) == run.checked.file.folder and Path(spec.output_dir) == run.folder.path


def test_an_actor_gets_back_the_whole_table_of_the_run_file_though_no_key_is_sent_twice(run: ClaimedRun) -> None:
    spec = make_spec(run.checked, run.folder.path)
    assert not spec.actors.keys() & RunSpec.model_fields.keys()
    assert config_of(spec) == run.checked.config.actors


def test_record_names_the_variable_and_not_what_is_in_it(run: ClaimedRun, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("ISENTROPE_REDIS_URL", "redis://:secret@host:6379")
    text = make_record(run, socket="", redis_version="6.2.14").model_dump_json()
    assert "secret" not in text and "ISENTROPE_REDIS_URL" in text
    assert {"redis", "ray", "torch", "vllm", "deepspeed"} <= set(
        make_record(run, socket="", redis_version="7").versions
    )

"""Commands that take a run's folder, on a run in every state and on runs of version 0.1: each ends with the code that
it promises, and says one thing."""

import hashlib
import json
import shutil
import socket
import sys
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import numpy as np
import pytest
from kept_batches import make_batch
from run_states import run_in
from safetensors.numpy import save
from tiny_model import publish, write_model
from waits import wait_until
from wire_records import ASYNC, make_spec

from isentrope import cli, evaluation, report
from isentrope.actors.config import ActorsConfig
from isentrope.check.findings import check
from isentrope.config import load
from isentrope.launch import driver, interrupts
from isentrope.learner import json_files
from isentrope.learner.records import BatchRow, EvalRow, Outcome, RunRecord, Summary
from isentrope.learner.training.dead_letters import DeadLetters
from isentrope.resolved import RUN_FILE
from isentrope.rollout.broker.connection import Broker
from isentrope.rollout.broker.learner_port import LearnerPort
from isentrope.rollout.wire.weights import MANIFEST

URL = "ISENTROPE_TEST_URL"

RUN_TOML = """
run = {{name = "mine", base_dir = {base!r}}}
model = {{path = "model", dtype = "float32", max_model_len = 64}}
data = {{train = "task:digit_walk", eval_prompts = 4}}
sampling = {{max_new_tokens = 8}}
"""

STATES = ("finished", "running", "dead", "damaged")

TRAIN = "run.output_dir=RUN learner.batches=3"
"""Settings of a run that has trained all its batches."""

COMMANDS = {
    "train": (f"train RUN/run.toml {TRAIN}", (0, 73, 0, 73)),
    "status": ("status RUN --json", (0, 0, 0, 73)),
    "runs": ("runs RUN --json", (0, 0, 0, 0)),
    "logs": ("logs RUN", (0, 0, 0, 73)),
    "stop": ("stop RUN --json --timeout 0", (0, 78, 0, 73)),
    "mode": ("mode on_policy RUN --json", (69, 0, 69, 73)),
    "scale": ("scale actors=+1 RUN --json", (69, 0, 69, 73)),
    "export": ("export RUN NEW --json", (0, 0, 0, 73)),
    "eval": ("eval RUN --json", (0, 0, 0, 73)),
    "replay": ("replay RUN --json", (64, 64, 64, 73)),
    "dlq list": ("dlq list RUN --json", (0, 0, 0, 0)),
    "dlq show": ("dlq show 3- RUN --json", (0, 0, 0, 0)),
    "dlq requeue": ("dlq requeue 3- RUN --json", (0, 0, 0, 0)),
    "plan": ("plan RUN/run.toml --measured RUN --json", (0, 0, 0, 0)),
    "depot": ("depot RUN --bind 127.0.0.1:0", (0, 0, 0, 73)),
    "exporter": ("exporter RUN --bind 127.0.0.1:0", (0, 0, 0, 73)),
}
"""By command: its arguments, and its exit codes by state. Dead letters and measures are read whatever `run.json` is."""


class Asked:
    """A signal that came before the command has begun to wait."""

    asked = True

    def __enter__(self) -> "Asked":
        return self

    def __exit__(self, *exc: object) -> None:
        pass


@pytest.fixture(scope="module")
def made(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Files that a run of one batch leaves beside its records: a version, the model it began with, its settings."""
    folder = tmp_path_factory.mktemp("made")
    (folder / "model").mkdir()
    write_model(folder / "model")
    publish(folder / "run", 1)
    (folder / "model" / "model.safetensors").symlink_to(next((folder / "run").glob("weights/*/*.safetensors")))
    (folder / "run" / RUN_FILE).write_text(RUN_TOML.format(base=str(folder)))
    return folder / "run"


@pytest.fixture(scope="module")
def digests(made: Path) -> dict[str, str]:
    """What tells a run that may go on from one of other settings or data."""
    checked = check(*load(made / RUN_FILE, TRAIN.replace("RUN", str(made)).split()))
    return {"config_digest": checked.digest, "data_digest": checked.data_digest}


@contextmanager
def run_of(state: str, folder: Path, made: Path, redis_url: str, **facts: str) -> Iterator[Path]:
    """Make a run in a state; one that runs has a learner that answers."""
    name = facts["run"]
    facts |= {"url_env": URL, "host": "elsewhere"}
    if state != "running":
        facts["socket"] = str(folder / "redis.sock")
    with run_in(state, folder, **facts), pytest.MonkeyPatch.context() as patch:
        shutil.copytree(made, folder, dirs_exist_ok=True)
        (folder / "logs" / "learner-0.log").write_text("began\n")
        DeadLetters(folder).write(make_batch(3), incarnation=2, deaths=2)
        if state != "running":
            yield folder
            return
        patch.setenv(URL, redis_url)
        broker, done = Broker.connect(redis_url, name), threading.Event()
        actors = ActorsConfig(count=1, max=4).model_dump(mode="json", exclude={"heartbeat_s", "max_tries"})
        learner = LearnerPort.fence(broker, 1, 0, 0, make_spec(name, actors=actors), ASYNC)
        answers = threading.Thread(target=_answer, args=(learner, done))
        answers.start()
        try:
            yield folder
        finally:
            done.set()
            answers.join()
            broker.close()


def _answer(learner: LearnerPort, done: threading.Event) -> None:
    """Be the learner that grants another mode."""
    wait_until(lambda: done.is_set() or learner.control().requested_mode, "a request")
    control = learner.control()
    if control.requested_mode:
        learner.set_control(control.model_copy(update={"mode": control.requested_mode, "requested_mode": None}))


@pytest.mark.parametrize("state", STATES)
@pytest.mark.parametrize("command", COMMANDS)
def test_a_command_ends_with_its_code_and_one_sentence_in_every_state(
    command: str,
    state: str,
    made: Path,
    digests: dict[str, str],
    redis_server: str,
    run_name: str,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:
    text, codes = COMMANDS[command]
    code = codes[STATES.index(state)]
    monkeypatch.setattr(interrupts, "Interrupts", Asked)
    monkeypatch.setattr(evaluation, "evaluate", _evaluated)
    monkeypatch.setattr(driver, "drive", lambda run, progress: Outcome.of_nothing())
    with run_of(state, tmp_path / "run", made, redis_server, run=run_name, **digests) as folder:
        arguments = [each.replace("RUN", str(folder)).replace("NEW", str(tmp_path / "new")) for each in text.split()]
        assert _run(monkeypatch, *arguments) == code
    shown = capsys.readouterr()
    if code:
        assert shown.err.startswith("error: ") and shown.err.count("error: ") == 1, shown
        assert "Traceback" not in shown.err and shown.err.count("\n") <= 3
    elif "--json" in text:
        assert isinstance(json.loads(shown.out), dict | list) and not shown.err
    else:
        assert shown.out.strip() and not shown.err


@pytest.mark.parametrize("command", ["depot", "exporter"])
def test_a_port_that_another_has_is_told_alike(
    command: str,
    made: Path,
    redis_server: str,
    run_name: str,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:
    """By the code of what another start may cure: the other may have left by then."""
    monkeypatch.setattr(interrupts, "Interrupts", Asked)
    with run_of("running", tmp_path / "run", made, redis_server, run=run_name) as folder, socket.socket() as other:
        other.bind(("127.0.0.1", 0))
        other.listen()
        bind = f"127.0.0.1:{other.getsockname()[1]}"
        assert _run(monkeypatch, command, str(folder), "--bind", bind) == 69
    said = capsys.readouterr().err
    assert f"the {command} cannot listen at {bind}: " in said and "choose a free port" in said


async def _evaluated(prepared: evaluation.Evaluation, shown: evaluation.Shown) -> list[EvalRow]:
    """Stand for an engine."""
    return [json_files.parse(b'{"batch": 1, "reward": 0.5, "prompts": 4, "samples": 8}', EvalRow)]


def _run(monkeypatch: pytest.MonkeyPatch, *arguments: str) -> int:
    monkeypatch.setattr(sys, "argv", ["isentrope", *arguments])
    with pytest.raises(SystemExit) as ended:
        cli.main()
    assert isinstance(ended.value.code, int)
    return ended.value.code


# --- runs of version 0.1


VERSION_0_1 = Path(__file__).parent / "data" / "version_0_1"
"""What two demos of three batches left, besides tensors: one without a schema in `run.json`, one of schema 2."""

EARLIER = tuple(sorted(path.name for path in VERSION_0_1.iterdir()))


@pytest.fixture(params=EARLIER)
def earlier(request: pytest.FixtureRequest, tmp_path: Path) -> Path:
    """A copy of such a run's folder, with the files that are too large for the checkout: a model and weights."""
    folder = tmp_path / "demo"
    shutil.copytree(VERSION_0_1 / request.param, folder)
    (folder / "run.lock").touch()
    write_model(folder / "model")
    (version,) = (folder / "weights").iterdir()
    manifest = json.loads((version / MANIFEST).read_text())
    for shard in [*manifest["shards"], *(manifest[key] for key in ("tensors", "canary") if key in manifest)]:
        content = save({shard["file"]: np.zeros(1, np.float32)})
        (version / shard["file"]).write_bytes(content)
        shard |= {"size_bytes": len(content), "digest": hashlib.blake2b(content, digest_size=32).hexdigest()}
    digested = {key: value for key, value in manifest.items() if key not in ("folder", "created", "digest")}
    text = json.dumps(digested, separators=(",", ":")).encode()
    manifest["digest"] = hashlib.blake2b(text, digest_size=32).hexdigest()
    (version / MANIFEST).write_text(json.dumps(manifest))
    return folder


def test_there_is_an_earlier_run_of_each_schema() -> None:
    records = [json.loads((VERSION_0_1 / name / RunRecord.FILE).read_text()) for name in EARLIER]
    assert [record.get("schema_version", 0) for record in records] == [0, 2]
    assert {record["versions"]["isentrope"] for record in records} == {"0.1.0"}


@pytest.mark.parametrize("command", ["status {} --json", "runs {}", "logs {}", "stop {}"])
def test_an_earlier_run_is_read(
    earlier: Path, command: str, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    assert _run(monkeypatch, *command.format(earlier).split()) == 0
    assert "finished" in capsys.readouterr().out or command.startswith("logs")


def test_an_earlier_run_has_a_report(earlier: Path) -> None:
    assert "<h1>demo" in report.write(earlier).read_text().replace("\n", "")
    summary = json_files.read(earlier, Summary)
    rows = list(json_files.read_lines(earlier, BatchRow))
    assert summary is not None and summary.batches == len(rows) == 3
    assert summary.groups_trained == rows[-1].trained


def test_weights_of_an_earlier_run_are_exported_and_their_damage_is_noticed(
    earlier: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str], tmp_path: Path
) -> None:
    model = ["--model", str(earlier / "model")]
    assert _run(monkeypatch, "export", str(earlier), str(tmp_path / "new"), "--json", *model) == 0
    assert json.loads(capsys.readouterr().out)["batch"] == 3
    assert (tmp_path / "new").joinpath("config.json").exists()
    place = next(earlier.glob(f"weights/*/{MANIFEST}"))
    place.write_text(place.read_text().replace("float32", "bfloat16"))
    assert _run(monkeypatch, "export", str(earlier), str(tmp_path / "other"), *model) == 74
    assert "error: " in capsys.readouterr().err and not (tmp_path / "other").exists()


def test_an_earlier_run_cannot_be_continued_and_says_why(
    earlier: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    """By a setting that is gone, or by the schema of its folder; what it holds stays."""
    before = {path: path.read_bytes() for path in earlier.rglob("*.json*")}
    settings = earlier / RUN_FILE
    if settings.exists():
        assert _run(monkeypatch, "train", str(settings)) == 64
        assert "unknown key learner.prometheus_port" in capsys.readouterr().err
    else:
        settings.write_text(
            RUN_TOML.format(base=str(earlier)).replace('name = "mine"', 'name = "demo", output_dir = "."')
        )
        monkeypatch.chdir(earlier)
        (weights,) = publish(earlier.parent / "other", 1).manifest.shards
        place = next((earlier.parent / "other").rglob(weights.file))
        place.rename(earlier / "model" / "model.safetensors")
        assert _run(monkeypatch, "train", RUN_FILE) == 73
        assert "was begun by isentrope 0.1.0, and this version cannot continue it" in capsys.readouterr().err
    assert {path: path.read_bytes() for path in before} == before

"""An actor as a process of its own: joining, signals, sudden death of it or of its engine."""

import subprocess
import sys
from collections.abc import Callable, Iterator
from contextlib import suppress
from pathlib import Path

import psutil
import pytest
from tiny_model import Version
from waits import DEADLINE_S, is_alive, wait_until
from wire_records import ASYNC, make_spec

from isentrope.actors.worker import prompts_of
from isentrope.errors import DataError
from isentrope.rollout.broker.connection import Broker
from isentrope.rollout.broker.learner_port import LearnerPort
from isentrope.rollout.broker.run_view import ActorStage, ActorState
from isentrope.rollout.config import DataConfig, ModelConfig, SamplingConfig
from isentrope.rollout.data.prompts import open_prompts
from isentrope.rollout.wire.spec import RunSpec

ACTOR = """
import logging, sys, time
from pathlib import Path
from isentrope import environment
environment.set_defaults(offline=True)
from isentrope.actors import worker
logging.basicConfig(level=logging.INFO)

import_engine = worker._engine_module

def when_allowed():
    while not Path(__file__).with_name("allowed").exists():
        time.sleep(0.01)
    return import_engine()

worker._engine_module = when_allowed
if __name__ == "__main__":
    sys.exit(worker.main(worker.ActorOptions(url=sys.argv[1], run=sys.argv[2], actor_id="a1")))
"""

LIGHT = """
import sys
import isentrope.actors.worker
print(sorted({name.partition(".")[0] for name in sys.modules} & {"torch", "transformers", "vllm"}))
"""


def test_importing_the_worker_is_light() -> None:
    done = subprocess.run([sys.executable, "-c", LIGHT], capture_output=True, text=True, check=True)
    assert done.stdout.strip() == "[]"


def test_an_actor_with_other_data_than_the_runs_is_told_so(spec: RunSpec) -> None:
    assert prompts_of(spec).digest == spec.data_digest
    with pytest.raises(DataError, match="differs from the run's"):
        prompts_of(spec.model_copy(update={"data_digest": "of another file"}))


@pytest.fixture
def spec(run_name: str, run_folder: Path, model_dir: Path, versions: list[Version]) -> RunSpec:
    data = DataConfig(train="train.jsonl", reward="rewards:length")
    return make_spec(
        run_name,
        model=ModelConfig(path=str(model_dir), dtype="float32"),
        model_dir=str(model_dir),
        data=data,
        data_digest=open_prompts(data, run_folder=run_folder, seed=1).digest,
        sampling=SamplingConfig(group_size=4, max_new_tokens=13),
        actors={"kv_cache_gib": 0.5, "drain_s": DEADLINE_S},
        run_folder=str(run_folder),
        output_dir=str(Path(versions[0].manifest.folder).parents[1]),
        heartbeat_s=1.0,
    )


@pytest.fixture
def learner(redis_server: str, spec: RunSpec, versions: list[Version]) -> Iterator[LearnerPort]:
    broker = Broker.connect(redis_server, spec.run)
    learner = LearnerPort.fence(broker, 1, 0, 0, spec, ASYNC.model_copy(update={"max_lag": 1000}))
    learner.announce(versions[0].manifest)
    yield learner
    broker.close()


@pytest.fixture
def actor(redis_server: str, run_name: str, tmp_path: Path) -> Iterator[psutil.Popen]:
    """A process that joins the run, and starts its engine once there is a file `allowed`; nothing of it is left after
    the test."""
    program = tmp_path / "actor.py"
    program.write_text(ACTOR)
    with (tmp_path / "log").open("w") as log:
        process = psutil.Popen([sys.executable, str(program), redis_server, run_name], stdout=log, stderr=log)
    yield process
    family = [process, *_children(process)]
    for member in family:
        with suppress(psutil.NoSuchProcess):
            member.kill()
    process.wait()


def _children(process: psutil.Process) -> list[psutil.Process]:
    try:
        return process.children(recursive=True)
    except psutil.NoSuchProcess:
        return []


def _engine(process: psutil.Process) -> psutil.Process | None:
    """The engine's process, once it runs vLLM's code."""
    for child in _children(process):
        with suppress(psutil.Error):
            if "EngineCore" in child.name():
                return child
    return None


def _wait(what: str, condition: Callable[[], object], log: Path) -> None:
    wait_until(condition, lambda: f"{what}: {log.read_text()[-3000:]}", poll_s=0.05)


def _states(learner: LearnerPort) -> dict[str, ActorState]:
    return {state.id: state for state in learner.actors()}


def _serving(learner: LearnerPort, name: str) -> bool:
    states = _states(learner)
    return name in states and states[name].state is ActorStage.SERVING


def _publishes(learner: LearnerPort, count: int, log: Path) -> None:
    """`count` more groups come."""
    before = learner.counters().get("published", 0)
    learner.issue(trained_batches=0, retired=0, limit=learner.view.cursor() + count)
    _wait("no groups", lambda: learner.counters().get("published", 0) == before + count, log)


@pytest.mark.slow
def test_an_actor_joins_serves_comes_back_under_a_new_id_and_drains(
    actor: psutil.Popen, learner: LearnerPort, tmp_path: Path
) -> None:
    log = tmp_path / "log"
    _wait("does not join", lambda: "a1" in _states(learner), log)
    assert _states(learner)["a1"].state is ActorStage.JOINING  # it shows itself before its engine has started
    (tmp_path / "allowed").touch()
    _wait("does not serve", lambda: _serving(learner, "a1"), log)
    _publishes(learner, 40, log)

    def reap() -> bool:
        record = learner.broker.run(lambda client: client.hget(learner.broker.keys.actors, "a1"))
        return int(learner.broker.call("reap", "a1", record, 5)) >= 0

    _wait("no record that stands still, as it moves with every heartbeat", reap, log)
    _wait("does not come back", lambda: _serving(learner, "a1.2"), log)
    assert "a1" not in _states(learner)
    _publishes(learner, 40, log)

    actor.terminate()
    assert actor.wait(DEADLINE_S) == 0, log.read_text()
    assert "a1.2" not in _states(learner)
    assert (learner.view.queues()["leased"], _children(actor)) == (0, [])
    assert "Exception ignored" not in log.read_text()


@pytest.mark.slow
def test_when_the_engine_dies_the_actor_says_so_hands_back_its_leases_and_ends(
    actor: psutil.Popen, learner: LearnerPort, tmp_path: Path
) -> None:
    log = tmp_path / "log"
    (tmp_path / "allowed").touch()
    learner.issue(trained_batches=0, retired=0, limit=4000)
    _wait("no groups", lambda: learner.counters().get("published", 0) > 40, log)
    engine = _engine(actor)
    assert engine is not None
    engine.kill()
    assert actor.wait(DEADLINE_S) == 69, log.read_text()
    assert "the engine died (exit -9)" in log.read_text()
    assert learner.view.queues()["leased"] == 0


@pytest.mark.slow
def test_nothing_outlives_an_actor_that_was_killed(actor: psutil.Popen, learner: LearnerPort, tmp_path: Path) -> None:
    """Killed while the engine is starting, when it is hardest to tell its processes anything."""
    (tmp_path / "allowed").touch()
    _wait("no engine", lambda: _engine(actor), tmp_path / "log")
    family = _children(actor)
    assert len(family) > 1
    actor.kill()
    actor.wait()
    _wait("still there", lambda: not any(map(is_alive, family)), tmp_path / "log")

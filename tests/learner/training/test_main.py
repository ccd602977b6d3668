"""How a rank ends that may not have the run, or may not begin it."""

from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from toy_actor import ToyActor
from toy_run import make_job

from isentrope.errors import FencedError, UnreachableError
from isentrope.learner import json_files
from isentrope.learner.records import Outcome
from isentrope.learner.training.checkpoint_store import CHECKPOINTS, CheckpointStore
from isentrope.learner.training.job import LearnerJob
from isentrope.learner.training.main import train
from isentrope.rollout.broker.connection import Broker
from isentrope.rollout.broker.learner_port import LearnerPort
from isentrope.rollout.wire.control import Control, Mode
from isentrope.rollout.wire.spec import RunSpec
from isentrope.rollout.wire.types import Group, Response, WorkOrder

CONTROL = Control(mode=Mode.ASYNC, max_lag=1)


@pytest.fixture
def job(process_group: None, redis_server: str, run_name: str, toy_model: Path, tmp_path: Path) -> LearnerJob:
    return make_job(run_name, redis_server, toy_model, tmp_path, ranks=1)


@pytest.fixture
def broker(job: LearnerJob) -> Iterator[Broker]:
    broker = Broker.connect(job.url, job.spec.run)
    yield broker
    broker.close()


def test_a_learner_that_was_replaced_says_by_whom_and_writes_no_outcome(job: LearnerJob, broker: Broker) -> None:
    LearnerPort.fence(broker, 7, 0, 0, job.spec, CONTROL)
    with pytest.raises(FencedError, match="learner 7 took over from 1"):
        train(job)
    assert json_files.read(Path(job.spec.output_dir), Outcome) is None


def test_a_learner_on_a_copy_of_the_checkpoints_is_refused_although_its_number_is_the_same(
    job: LearnerJob, broker: Broker
) -> None:
    first = LearnerPort.fence(broker, 1, 0, 0, job.spec, CONTROL, nonce="of the first")
    with pytest.raises(FencedError, match="another learner of number 1 holds the run"):
        train(job)
    first.refence(newest_claim=1, lwm=0, cursor=0)
    assert json_files.read(Path(job.spec.output_dir), Outcome) is None


def test_a_learner_gives_up_the_broker_when_its_actors_do(job: LearnerJob, monkeypatch: pytest.MonkeyPatch) -> None:
    asked: list[float] = []

    def connect(url: str, run: str, *, deadline_s: float, insecure: bool) -> Broker:
        asked.append(deadline_s)
        raise UnreachableError("the broker is away")

    monkeypatch.setattr(Broker, "connect", connect)
    train(replace(job, spec=job.spec.model_copy(update={"broker_timeout_s": 123.0})))
    outcome = json_files.read(Path(job.spec.output_dir), Outcome)
    assert outcome is not None and (asked, outcome.exit_code) == ([123.0], 69)


@pytest.mark.parametrize("trace", ["broker", "metrics"])
def test_a_run_whose_checkpoints_are_gone_does_not_begin_anew(job: LearnerJob, broker: Broker, trace: str) -> None:
    folder = Path(job.spec.output_dir)
    if trace == "broker":
        CheckpointStore(folder / CHECKPOINTS).claim()
        learner = LearnerPort.fence(broker, 1, 0, 0, job.spec, CONTROL)
        learner.commit(entries=[], lwm=0, ckpt="the checkpoint of batch 4")
    else:
        (folder / "metrics.jsonl").write_text('{"batch": 1}\n')
    train(job)
    outcome = json_files.read(folder, Outcome)
    assert outcome is not None and outcome.exit_code == 74
    assert ("the checkpoint of batch 4" if trace == "broker" else "metrics.jsonl") in outcome.what


@pytest.mark.slow
def test_records_that_contradict_the_run_are_retired_and_everything_else_is_trained(
    job: LearnerJob, broker: Broker, monkeypatch: pytest.MonkeyPatch
) -> None:
    """One record far longer than the run allows made every rank pad a batch to it, and die, at each start again."""
    monkeypatch.setenv("LOCAL_RANK", "0")
    actor = ToyActor(job.url, job.spec.run)
    liar = Liar(job.url, job.spec.run, "liar")
    for each in (actor, liar):
        each.start()
    train(replace(job, config=job.config.model_copy(update={"ranks": 1, "batches": 3})))
    for each in (actor, liar):
        each.stop()
    outcome = json_files.read(Path(job.spec.output_dir), Outcome)
    assert outcome is not None and (outcome.status, outcome.batches) == ("finished", 3)
    assert 0 < outcome.retired["invalid"] == min(liar.served, len(Liar.LIES))
    assert outcome.trained == 3 * job.spec.prompts_per_batch


class Liar(ToyActor):
    """Answers its first orders by what no run asks for."""

    LIES: tuple[dict[str, Any], ...] = (
        {"tokens": 60_000},
        {"seed": 1},
        {"tokens": 60_000, "seed": 1},
    )

    def _answer(self, order: WorkOrder, spec: RunSpec) -> Group:
        group = super()._answer(order, spec)
        if self.served >= len(self.LIES):
            return group
        lie = self.LIES[self.served]
        return replace(group, responses=tuple(told(response, **lie) for response in group.responses))


def told(response: Response, *, tokens: int = 0, seed: int = -1) -> Response:
    length = tokens or len(response.tokens)
    return replace(
        response,
        tokens=np.resize(response.tokens, length),
        logp_rollout=np.resize(response.logp_rollout, length),
        mask=np.ones(length, np.bool_),
        seed=response.seed if seed < 0 else seed,
    )

"""The line that names who is waited for."""

from dataclasses import replace
from typing import Any

import pytest
from wire_records import ASYNC, answer, make_actor_port, make_spec, make_weights

from isentrope.rollout.broker.connection import Broker
from isentrope.rollout.broker.learner_port import LearnerPort
from isentrope.rollout.broker.learner_state import LearnerState, RankState
from isentrope.rollout.broker.run_view import ActorStage, ActorState, RunView
from isentrope.rollout.broker.waiting import BrokerSnapshot, explain, why_waiting
from isentrope.rollout.wire.control import RunState

SPEC = make_spec("r", max_bytes=2_000_000)  # four groups per batch
SERVING = ActorState(id="a1", state=ActorStage.SERVING)
IDLE = BrokerSnapshot(
    control=ASYNC,
    announced=True,
    cursor=10,
    actors=[SERVING],
    counters={"trained": 4, "retired": 1},
    queues={"waiting": 1, "leased": 2, "unread": 0, "uncommitted": 6, "eval": 0},
    used_bytes=1,
    limit_bytes=0,
)
RANKS = (RankState(rank=0, place="vm, pid 7"), RankState(rank=1, place="vm, pid 8", silent_s=20.0))
GENERATING = "batch 2: 2 of 4 groups; generating: 2 orders leased, 1 waiting"
NOTHING = {"waiting": 0, "leased": 0, "unread": 0, "uncommitted": 6, "eval": 0}


@pytest.mark.parametrize(
    ("changes", "line"),
    [
        ({"control": None}, "no learner has opened the run"),
        ({"control": ASYNC.model_copy(update={"state": RunState.STOP})}, "run is ending: 3 orders under way"),
        ({"announced": False}, "learner has announced no weights"),
        (
            {"learner": LearnerState(doing="train", ranks=RANKS, silent_s=31.0)},
            "learner (vm, pid 7) is silent for 31 s; it was at: train",
        ),
        ({"learner": LearnerState(doing="train", ranks=RANKS[:1], doing_s=90.0)}, GENERATING),
        (
            {"learner": LearnerState(doing="train", doing_s=21.0, ranks=RANKS)},
            "rank 1 (vm, pid 8) is silent for 20 s; the others are at: train, for 21 s",
        ),
        (
            {"actors": [SERVING, ActorState(id="a2", state=ActorStage.SERVING, engine_silent_s=23.0)]},
            "batch 2: 2 of 4 groups; the engine of a2 is silent for 23 s",
        ),
        ({"cursor": 12}, "learner is training batch 2: 4 groups ready"),
        ({"queues": NOTHING}, "learner is training batch 2: 5 groups ready; admission closed, actors wait"),
        ({}, "batch 2: 2 of 4 groups; generating: 2 orders leased, 1 waiting"),
        ({"actors": []}, "batch 2: 2 of 4 groups; no actor has joined"),
        (
            {"actors": [ActorState(id="a1", state=ActorStage.GONE)]},
            "batch 2: 2 of 4 groups; no actor has joined again: a1 is gone",
        ),
        (
            {"actors": [SERVING, ActorState(id="a2", state=ActorStage.SERVING, silent_s=12)]},
            "batch 2: 2 of 4 groups; a2 is silent for 12 s",
        ),
        (
            {"actors": [ActorState(id="a1", state=ActorStage.SYNCING), ActorState(id="a2")]},
            "batch 2: 2 of 4 groups; actor a1 is getting its weights, actor a2 is starting its engine",
        ),
        (
            {"actors": [ActorState(id="a1", state=ActorStage.DIRTY, last_error="digest")]},
            "batch 2: 2 of 4 groups; actor a1 failed to load weights (digest)",
        ),
        ({"queues": NOTHING, "cursor": 5}, "batch 2: 0 of 4 groups; learner has issued no orders"),
        (
            {"used_bytes": 7_900_000, "limit_bytes": 8_000_000},
            "batch 2: 2 of 4 groups; broker full: 7.9 of 8.0 MB, 6 groups un-committed",
        ),
        (
            {"queues": NOTHING, "cursor": 5, "counters": {"trained": 4, "retired": 1, "bytes": 2_100_000}},
            "batch 2: 0 of 4 groups; byte budget used up: 2.1 of 2.0 MB, "
            "6 groups un-committed until the next checkpoint",
        ),
        (
            {"queues": {**NOTHING, "eval": 7}},
            "learner is training batch 2: 5 groups ready; admission closed, actors wait; 7 held-out prompts to answer",
        ),
    ],
)
def test_what_a_batch_waits_for_is_named(changes: dict[str, Any], line: str) -> None:
    assert explain(replace(IDLE, **changes), SPEC) == line


def test_every_stage_of_an_actor_has_words() -> None:
    for stage in set(ActorStage) - {ActorStage.SERVING, ActorStage.GONE}:
        assert "actor a1" in explain(replace(IDLE, actors=[ActorState(id="a1", state=stage)]), SPEC)


def test_a_real_run_from_its_opening_to_its_first_batch(broker: Broker, run_name: str) -> None:
    view, spec = RunView(broker), make_spec(run_name)
    assert why_waiting(view, spec) == "no learner has opened the run"
    learner = LearnerPort.fence(broker, 1, 0, 0, spec, ASYNC)
    assert why_waiting(view, spec) == "learner has announced no weights"
    learner.announce(make_weights())
    learner.issue(trained_batches=0, retired=0, limit=100)
    assert why_waiting(view, spec) == "batch 1: 0 of 4 groups; no actor has joined"
    actor = make_actor_port(broker, "a1")
    actor.heartbeat(ActorState(id="a1", state=ActorStage.SERVING))
    for order in actor.take(3, 0.0):
        actor.publish(answer(order), order)
    actor.take(1, 0.0)
    assert why_waiting(view, spec) == "batch 1: 3 of 4 groups; generating: 1 orders leased, 4 waiting"

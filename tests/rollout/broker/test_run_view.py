"""What status shows."""

import pytest
from waits import wait_until
from wire_records import ASYNC, answer, make_actor_port, make_weights

from isentrope.errors import ConfigError, UnreachableError
from isentrope.rollout.broker import run_view
from isentrope.rollout.broker.actor_port import ActorPort
from isentrope.rollout.broker.connection import Broker
from isentrope.rollout.broker.learner_port import LearnerPort
from isentrope.rollout.broker.learner_state import HEARTBEAT, LearnerState, RankState
from isentrope.rollout.broker.run_view import ActorState, RunView


def test_a_run_that_nobody_has_opened_is_empty(broker: Broker) -> None:
    view = RunView(broker)
    assert (view.control(), view.weights(), view.checkpoint()) == (None, None, "")
    assert (view.incarnation(), view.cursor(), view.actors(), view.counters()) == (0, 0, [], {})
    assert set(view.queues().values()) == {0}


def test_an_actor_waits_for_a_learner_and_says_so(broker: Broker) -> None:
    with pytest.raises(UnreachableError, match=r"no learner has opened run .* for 0 s"):
        RunView(broker).spec(0.1)


def test_an_actor_learns_the_run_from_the_broker(learner: LearnerPort, broker: Broker) -> None:
    view = RunView(broker)
    assert (view.spec(1.0), view.weights(), view.control()) == (learner.spec, make_weights(), ASYNC)


def test_facts_of_an_earlier_start_are_not_those_of_the_next(learner: LearnerPort, broker: Broker) -> None:
    view = RunView(broker)
    assert view.spec(0.0, begun=True) == view.spec(0.0)
    broker.run(lambda client: client.delete(broker.keys.ctl))  # as the command does that begins the run again
    with pytest.raises(UnreachableError, match="no learner has opened run"):
        view.spec(0.0, begun=True)
    assert view.spec(0.0).run == broker.keys.run


def test_facts_that_a_learner_writes_anew_while_they_are_read_are_the_new_ones(
    learner: LearnerPort, broker: Broker
) -> None:
    """Between the two keys that are read, the next start's learner has opened the run."""
    new = learner.spec.model_copy(update={"seed": learner.spec.seed + 1})

    class Slow(RunView):
        def text(self, key: str) -> str:
            value = super().text(key)
            if key == broker.keys.meta and not fenced:
                fenced.append(LearnerPort.fence(broker, 2, 0, 0, new, ASYNC))
            return value

    fenced: list[LearnerPort] = []
    broker.run(lambda client: client.delete(broker.keys.ctl))  # as the command does that begins the run again
    assert Slow(broker).spec(1.0, begun=True) == new


@pytest.mark.parametrize(
    ("versions", "said"), [({}, "another version of isentrope"), ({"isentrope": "9.0"}, r"isentrope 9\.0")]
)
def test_a_spec_of_another_version_of_the_program_is_refused(
    learner: LearnerPort, broker: Broker, versions: dict[str, str], said: str
) -> None:
    spec = learner.spec.model_copy(update={"versions": versions})
    text = spec.model_dump_json().replace('"vocab_size"', '"vocabulary"')
    broker.run(lambda client: client.set(broker.keys.meta, text))
    with pytest.raises(ConfigError, match=f"was opened by {said}, which"):
        RunView(broker).spec(1.0)


def test_queues_follow_an_order_from_issue_to_commit(learner: LearnerPort, actor: ActorPort) -> None:
    view = learner.view
    learner.issue(trained_batches=0, retired=0, limit=3)
    assert view.queues() == {"waiting": 3, "leased": 0, "unread": 0, "uncommitted": 0, "eval": 0}
    order, _ = actor.take(2, 0.0)
    assert view.queues() == {"waiting": 1, "leased": 2, "unread": 0, "uncommitted": 0, "eval": 0}
    actor.publish(answer(order), order)
    assert view.queues() == {"waiting": 1, "leased": 1, "unread": 1, "uncommitted": 1, "eval": 0}
    (entry,) = learner.admit(1, 0.0)
    assert view.queues() == {"waiting": 1, "leased": 1, "unread": 0, "uncommitted": 1, "eval": 0}
    learner.commit(entries=[entry.id], lwm=1, ckpt="step 1")
    assert view.queues() == {"waiting": 1, "leased": 1, "unread": 0, "uncommitted": 0, "eval": 0}


def test_a_view_knows_for_how_long_it_has_seen_nothing_of_an_actor(learner: LearnerPort, actor: ActorPort) -> None:
    actor.heartbeat(ActorState(id="a1"))
    learner.view.actors()
    wait_until(lambda: learner.view.actors()[0].silent_s >= 0.05, "what a view says of a silent actor")
    assert RunView(learner.broker).actors()[0].silent_s >= 0.05, "a view that has just begun asks the server's clock"
    actor.heartbeat(ActorState(id="a1"))
    assert learner.view.actors()[0].silent_s == 0.0


def test_what_an_operator_wants_stays_until_it_wants_something_else(learner: LearnerPort, broker: Broker) -> None:
    operator = RunView(broker)
    assert learner.view.desired() is None
    first, second = operator.want(3), operator.want(1)
    assert learner.view.desired() == second and (second.actors, second.id == first.id) == (1, False)
    assert second.at >= first.at > 0


def test_an_actor_that_is_asked_to_leave_learns_it_and_the_request_goes_with_it(
    learner: LearnerPort, broker: Broker
) -> None:
    operator, actors = RunView(broker), [make_actor_port(broker, name) for name in ("a1", "a2")]
    operator.ask_to_leave([], 1.0)
    assert learner.view.leaving() == {} and actors[0].asked_to_leave() is None
    operator.ask_to_leave(["a1", "a2"], 7.5)
    assert [actor.asked_to_leave() for actor in actors] == [7.5, 7.5]
    actors[0].leave()
    assert learner.view.leaving() == {"a2": 7.5}


def test_memory_and_weights_are_shown(learner: LearnerPort) -> None:
    used, limit = learner.view.memory()
    assert used > 0 and limit == 0
    assert learner.view.weights() == make_weights()
    assert learner.view.incarnation() == 1


def test_the_learner_is_silent_from_its_last_heartbeat_on(
    learner: LearnerPort, broker: Broker, monkeypatch: pytest.MonkeyPatch
) -> None:
    view, now = RunView(broker), [1000.0]
    monkeypatch.setattr(run_view.time, "monotonic", lambda: now[0])
    assert view.learner() is None
    ranks = (RankState(rank=0, place="vm, pid 7"), RankState(rank=1, place="vm, pid 8", silent_s=3.5))
    learner.heartbeat(LearnerState(doing="train", doing_s=1.5, ranks=ranks))
    state = view.learner()
    assert state is not None and (state.doing, state.ranks, state.place) == ("train", ranks, "vm, pid 7")
    assert state.silent_s < 100, "by the server's clock"
    before = state.silent_s
    now[0] += 40
    later = view.learner()
    assert later is not None and later.silent_s == pytest.approx(before + 40)
    learner.heartbeat(LearnerState(doing="idle"))
    newest = view.learner()
    assert newest is not None and (newest.silent_s, newest.doing) == (0, "idle")


def test_a_heartbeat_of_an_earlier_learner_tells_nothing_of_the_present_one(
    learner: LearnerPort, broker: Broker
) -> None:
    learner.heartbeat(LearnerState(doing="train"))
    LearnerPort.fence(broker, learner.incarnation + 1, 0, 0, learner.spec, ASYNC)
    assert RunView(broker).learner() is None
    broker.run(lambda client: client.hset(broker.keys.metrics, HEARTBEAT, b"\xff garbage"))
    assert RunView(broker).learner() is None

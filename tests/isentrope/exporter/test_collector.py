"""The exporter shows a run as its broker has it at a scrape: nothing of a batch before, and sums that never fall."""

import re
from collections.abc import Iterator

import pytest
from prometheus_client import CollectorRegistry
from run_records import MEASURES, make_row
from wire_records import ASYNC, make_actor_port, make_spec, make_weights

from isentrope.errors import UnreachableError
from isentrope.exporter import quantities
from isentrope.exporter.collector import RunCollector
from isentrope.learner.training.metrics import scalars
from isentrope.learner.training.sinks import Broadcast
from isentrope.rollout.broker.connection import Broker
from isentrope.rollout.broker.learner_port import LearnerPort
from isentrope.rollout.broker.run_view import ActorStage, ActorState, RunView
from isentrope.rollout.wire.types import version_of

OPTIONAL = {"objective/kl_ref_k3", "objective/kl_old", "objective/logp_gap_fresh"}
"""Numbers that not every batch has; their names are keys of the record."""


@pytest.fixture
def learner(redis_server: str, run_name: str) -> Iterator[LearnerPort]:
    broker = Broker.connect(redis_server, run_name)
    yield LearnerPort.fence(broker, 3, 0, 0, make_spec(run_name), ASYNC)
    broker.close()


def scraped(url: str, run: str) -> dict[tuple[str, tuple[str, ...]], float]:
    """Return every sample by its name and its labels but `run`, in the table's order."""
    collector = RunCollector(run, lambda: RunView(Broker.connect(url, run, deadline_s=1.0)))
    registry = CollectorRegistry()
    registry.register(collector)
    found = {}
    for metric in registry.collect():
        assert metric.documentation
        for sample in metric.samples:
            labels = dict(sample.labels)
            assert labels.pop("run") == run
            found[sample.name, tuple(labels.values())] = sample.value
    collector.close()
    return found


def broadcast(learner: LearnerPort) -> Broadcast:
    """A sink of a learner that has just begun."""
    return Broadcast(learner.show, learner.view.metrics())


def test_a_running_run_is_shown_with_its_actors_orders_and_weights(
    learner: LearnerPort, redis_server: str, run_name: str
) -> None:
    learner.announce(make_weights(3, 7))
    learner.issue(trained_batches=7, retired=0, limit=1000)
    actor = make_actor_port(learner.broker, "a1")
    state = ActorState(id="a1", host="box", state=ActorStage.SERVING, version=version_of(3, 6), load_s=1.5)
    actor.heartbeat(state.model_copy(update={"tokens_per_s": 9.5}))
    learner.broker.run(lambda client: client.hincrby(learner.broker.keys.n, "deaths", 2))
    broadcast(learner).write(8, scalars(make_row(8, lag_mean=1.25).to_json()))
    found = scraped(redis_server, run_name)
    expected = {
        ("isentrope_up", ()): 1,
        ("isentrope_state", ("run",)): 1,
        ("isentrope_state", ("stop",)): 0,
        ("isentrope_batch", ()): 8,
        ("isentrope_actors", ("serving",)): 1,
        ("isentrope_actors", ("gone",)): 0,
        ("isentrope_actor_tokens_per_second", ("a1", "box")): 9.5,
        ("isentrope_actor_weights_batch", ("a1", "box")): 6,
        ("isentrope_weights_load_seconds", ("a1", "box")): 1.5,
        ("isentrope_weights_batch", ()): 7,
        ("isentrope_orders", ("leased",)): 0,
        ("isentrope_restarts_total", ("learner",)): 2,
        ("isentrope_restarts_total", ("actor",)): 2,
        ("isentrope_learner_entropy_nats", ()): 0.25,
        ("isentrope_lag_batches", ()): 1.25,
        ("isentrope_tokens_total", ("trained",)): 2800,
        ("isentrope_learner_seconds_total", ("wait",)): 0.5,
    }
    assert {key: found.get(key) for key in expected} == expected
    waiting = found["isentrope_orders", ("waiting",)]
    assert waiting == found["isentrope_groups_total", ("issued",)] > 0


def test_every_phase_together_is_the_learners_time(learner: LearnerPort, redis_server: str, run_name: str) -> None:
    broadcast(learner).write(1, scalars(make_row(1).to_json()))
    seconds = {key: value for key, value in scraped(redis_server, run_name).items() if "seconds_total" in key[0]}
    assert sum(seconds.values()) == pytest.approx(35.0)


def test_gauges_of_a_batch_that_is_past_are_gone_and_sums_go_on_over_learners(
    learner: LearnerPort, redis_server: str, run_name: str
) -> None:
    kl = make_row(1, objective=dict(MEASURES) | {"kl_old": 0.5}, untrained=make_row(1).untrained)
    broadcast(learner).write(2, scalars(kl.to_json()) | {"alarm/kl_old": 1.0})
    assert ("isentrope_learner_kl_old_nats", ()) in scraped(redis_server, run_name)
    broadcast(learner).write(1, scalars(make_row(1).to_json()) | {"alarm/kl_old": 0.0})
    found = scraped(redis_server, run_name)
    assert ("isentrope_learner_kl_old_nats", ()) not in found
    assert found["isentrope_alarm", ("kl_old",)] == 0 and found["isentrope_alarm_batches_total", ("kl_old",)] == 1
    assert found["isentrope_batches_total", ()] == 2 and found["isentrope_tokens_total", ("trained",)] == 5600
    assert found["isentrope_groups_total", ("trained",)] == 64


def test_an_evaluation_stays_until_the_next(learner: LearnerPort, redis_server: str, run_name: str) -> None:
    sink = broadcast(learner)
    sink.write(5, {"eval/reward": 0.5, "eval/pass_at/8": 0.75})
    sink.write(6, scalars(make_row(6).to_json()))
    found = scraped(redis_server, run_name)
    assert found["isentrope_evaluation_pass_ratio", ("8",)] == 0.75 and found["isentrope_evaluation_batch", ()] == 5


def test_a_run_that_no_learner_has_opened_is_not_up(redis_server: str, run_name: str) -> None:
    assert scraped(redis_server, run_name) == {("isentrope_up", ()): 0}


def test_a_broker_that_is_away_is_not_up_and_asked_again(
    learner: LearnerPort, redis_server: str, run_name: str
) -> None:
    away = [True]

    def connect() -> RunView:
        if away[0]:
            raise UnreachableError("away")
        return RunView(Broker.connect(redis_server, run_name))

    collector = RunCollector(run_name, connect)
    for up in (0.0, 1.0):
        (metric,) = (each for each in collector.collect() if each.name == "isentrope_up")
        assert metric.samples[0].value == up
        away[0] = False
    collector.close()


def test_every_number_of_the_table_is_one_that_the_learner_has() -> None:
    numbers = scalars(make_row(1).to_json())
    keys = {f"objective/{name}" for name in type(MEASURES).model_fields}
    assert set(quantities.LEARNER) - OPTIONAL <= numbers.keys()
    assert keys >= OPTIONAL
    assert set(quantities.SUMS) - {"batches"} <= numbers.keys()


def test_names_say_unit_and_kind_and_each_is_one_metric() -> None:
    names = [each.name for each in quantities.QUANTITIES]
    assert len(set(names)) == len(names)
    assert all(re.fullmatch(r"isentrope_[a-z_]+", name) for name in names)
    assert all(each.text.endswith(".") for each in quantities.QUANTITIES)

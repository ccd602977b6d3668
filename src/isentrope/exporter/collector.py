"""A run's metrics at the moment of a scrape. Everything is read anew, so nothing of an earlier moment stays."""

import threading
from collections import Counter
from collections.abc import Callable, Iterator, Mapping, Sequence

from prometheus_client.core import CounterMetricFamily, GaugeMetricFamily, Metric
from prometheus_client.registry import Collector

from isentrope.errors import UnreachableError
from isentrope.exporter import quantities as table
from isentrope.exporter.quantities import Quantity
from isentrope.learner.broadcasted import Broadcasted
from isentrope.rollout.broker.run_view import ActorStage, RunView
from isentrope.rollout.wire.control import Mode, RunState
from isentrope.rollout.wire.types import batch_of

UNTRAINED = {"groups": table.RUN["isentrope_groups_retired_total"], "failed": table.FAILED}
"""Counters of what did not train, by their place below `untrained/`."""

DEADLINE_S = 3.0


class _Families:
    """Metrics with their samples."""

    def __init__(self, run: str) -> None:
        self._run = run
        self._found: dict[str, GaugeMetricFamily | CounterMetricFamily] = {}

    def add(self, quantity: Quantity, value: float, *labels: str) -> None:
        """Add a sample."""
        made = self._found.setdefault(quantity.name, _family(quantity))
        made.add_metric([self._run, *labels], value)

    def all(self) -> Sequence[Metric]:
        """Return the metrics that have a sample."""
        return list(self._found.values())


def _family(quantity: Quantity) -> GaugeMetricFamily | CounterMetricFamily:
    kind = CounterMetricFamily if quantity.kind == "counter" else GaugeMetricFamily
    return kind(quantity.name, quantity.text, labels=("run", *quantity.labels))


class RunCollector(Collector):
    """Metrics of one run; connects again at a scrape when the broker was away."""

    def __init__(self, run: str, connect: Callable[[], RunView]) -> None:
        self.run = run
        self._connect = connect
        self._view: RunView | None = None
        self._lock = threading.Lock()

    def require_access(self) -> None:
        """Connect, so that what will never work is an error at once."""
        self._view = self._connect()

    def collect(self) -> Iterator[Metric]:
        """Yield all metrics; `isentrope_up` alone, as 0, while the broker is away or no learner has opened the run."""
        with self._lock:
            families = _Families(self.run)
            try:
                opened = self._read(families)
            except UnreachableError:
                families, opened = _Families(self.run), False
                self.close()
            families.add(table.UP, float(opened))
        yield from families.all()

    def describe(self) -> list[Metric]:
        """Return nothing: a registry need not ask the broker what there will be."""
        return []

    def close(self) -> None:
        """Close the connection to the broker."""
        view, self._view = self._view, None
        if view is not None:
            view.broker.close()

    def _read(self, families: _Families) -> bool:
        """Add what the broker holds; return False if no learner has opened the run."""
        view = self._view = self._view or self._connect()
        control = view.control()
        if control is None:
            return False
        shown = Broadcasted.of(view.metrics())
        add = families.add
        for state in RunState:
            add(table.RUN["isentrope_state"], float(control.state is state), state.value)
        add(table.RUN["isentrope_on_policy"], float(control.mode is Mode.ON_POLICY))
        add(table.RUN["isentrope_max_lag_batches"], control.lag)
        add(table.RUN["isentrope_batch"], shown.batch.get("batch", 0.0))
        counters = view.counters()
        _add_broker(families, view, counters)
        _add_weights(families, view)
        _add_actors(families, view)
        _add_learner(families, shown)
        _add_counters(families, counters, shown)
        add(table.RUN["isentrope_restarts_total"], max(0, view.incarnation() - 1), "learner")
        return True


def _add_broker(families: _Families, view: RunView, counters: Mapping[str, int]) -> None:
    queues, spec = view.queues(), view.spec(DEADLINE_S)
    used, limit = view.memory()
    for state in ("waiting", "leased"):
        families.add(table.RUN["isentrope_orders"], queues[state], state)
    families.add(table.RUN["isentrope_evaluation_orders"], queues["eval"])
    for state in ("unread", "uncommitted"):
        families.add(table.RUN["isentrope_groups_held"], queues[state], state)
    sizes = {"used": used, "uncommitted": counters.get("bytes", 0), "budget": spec.max_bytes}
    for kind, size in (sizes | ({"limit": limit} if limit else {})).items():
        families.add(table.RUN["isentrope_broker_bytes"], size, kind)


def _add_weights(families: _Families, view: RunView) -> None:
    if (weights := view.weights()) is not None:
        families.add(table.RUN["isentrope_weights_batch"], weights.batch)
        age_s = max(0.0, view.server_time_s() - weights.created)
        families.add(table.RUN["isentrope_weights_age_seconds"], age_s)


def _add_actors(families: _Families, view: RunView) -> None:
    actors, desired = view.actors(), view.desired()
    states = Counter(actor.state for actor in actors)
    for stage in ActorStage:
        families.add(table.RUN["isentrope_actors"], states[stage], stage.value)
    if desired is not None:
        families.add(table.RUN["isentrope_actors_wanted"], desired.actors)
    for actor in actors:
        if actor.state is not ActorStage.GONE:
            values = {
                "isentrope_actor_tokens_per_second": actor.tokens_per_s,
                "isentrope_actor_silent_seconds": actor.silent_s,
                "isentrope_actor_orders": actor.leases,
                "isentrope_actor_weights_batch": batch_of(actor.version),
                "isentrope_weights_load_seconds": actor.load_s,
                "isentrope_refused_loads_total": actor.refused,
            }
            for name, value in values.items():
                families.add(table.ACTOR[name], value, actor.id, actor.host)


def _add_learner(families: _Families, shown: Broadcasted) -> None:
    for name, quantity in table.LEARNER.items():
        if name in shown.batch:
            families.add(quantity, shown.batch[name])
    for name, value in shown.batch.items():
        if name.startswith("alarm/"):
            families.add(table.ALARM, value, _last(name))
    for name, quantity in table.EVALUATION.items():
        if name in shown.evaluation:
            families.add(quantity, shown.evaluation[name])
    for name, value in shown.evaluation.items():
        if name.startswith("eval/pass_at/"):
            families.add(table.PASS_AT, value, _last(name))


def _add_counters(families: _Families, counters: Mapping[str, int], shown: Broadcasted) -> None:
    sums = shown.sums
    untrained: dict[str, dict[str, float]] = {place: {} for place in UNTRAINED}
    for name, quantity in table.SUMS.items():
        families.add(quantity, sums.get(name, 0.0))
    for what, name in (("trained", "tokens"), ("masked", "tokens_masked")):
        families.add(table.TOKENS, sums.get(name, 0.0), what)
    for name, value in sums.items():
        first, *rest = name.split("/")
        if first == "time":
            families.add(table.SECONDS, value, rest[0].removesuffix("_s"))
        elif first == "alarm":
            families.add(table.ALARM_BATCHES, value, rest[0])
        elif first == "untrained" and rest[0] in UNTRAINED:
            place, label = rest[:2]
            untrained[place][label] = untrained[place].get(label, 0.0) + value
    for place, quantity in UNTRAINED.items():
        for label, value in untrained[place].items():
            families.add(quantity, value, label)
    groups = {name: float(counters.get(name, 0)) for name in ("issued", "published")}
    groups |= {"trained": sums.get("groups", 0.0), "retired": sum(untrained["groups"].values())}
    for what, count in groups.items():
        families.add(table.RUN["isentrope_groups_total"], count, what)
    families.add(table.RUN["isentrope_restarts_total"], counters.get("deaths", 0), "actor")


def _last(name: str) -> str:
    return name.rpartition("/")[2]

"""No reader misses a write, by whatever interleaving of writes and reads, and however many wake it."""

import re
import threading
import uuid
from collections.abc import Callable
from pathlib import Path

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from waits import wait_until
from wire_records import ASYNC, make_actor_port, make_weights

from isentrope.errors import BrokerChangedError
from isentrope.rollout.broker import news as module
from isentrope.rollout.broker.connection import Broker
from isentrope.rollout.broker.learner_port import LearnerPort
from isentrope.rollout.broker.news import EVERYTHING, KEPT, News, Topic, wake
from isentrope.rollout.broker.run_view import RunView
from isentrope.rollout.wire.control import RunState
from isentrope.rollout.wire.types import EvalOrder, version_of

NEVER_S = 1e9


class Board:
    """What is written: a number for each topic, by the script that the learner writes with."""

    def __init__(self, broker: Broker) -> None:
        self.broker = broker
        broker.load_scripts()
        broker.run(lambda client: client.set(broker.keys.incarnation, 1))

    def write(self, topic: Topic, number: int) -> None:
        self.broker.call("set", 1, topic, topic, number, keys=[self.broker.keys.n])

    def read(self, topics: frozenset[Topic]) -> dict[Topic, int]:
        table = RunView(self.broker).counters()
        return {topic: table[topic] for topic in topics if topic in table}


class Reader:
    """A reader that knows of each topic what it read when the news were about it."""

    def __init__(self, board: Board, name: str) -> None:
        self.board = board
        self.news = News(board.broker, name, look_every_s=NEVER_S)
        self.knows: dict[Topic, int] = {}

    def look(self, block_s: float = 0.0) -> None:
        self.knows |= self.board.read(self.news.wait(block_s))


steps = st.one_of(
    st.tuples(st.just("write"), st.sampled_from(Topic)),
    st.tuples(st.just("many"), st.sampled_from(Topic)),
    st.tuples(st.just("read"), st.integers(0, 2)),
    st.tuples(st.just("between"), st.integers(0, 2)),
    st.tuples(st.just("restart"), st.none()),
)


@settings(max_examples=60)
@given(plan=st.lists(steps, max_size=25))
def test_every_reader_sees_every_last_state(redis_server: str, plan: list[tuple[str, object]]) -> None:
    """`between`: a write falls between what the reader reads of the news and its read of the state."""
    board = Board(Broker.connect(redis_server, f"news-{uuid.uuid4().hex[:12]}"))
    readers = [Reader(board, name) for name in "abc"]
    for number, (step, what) in enumerate(plan):
        match step:
            case "write" | "many":
                for _ in range(1 if step == "write" else KEPT + 1):
                    board.write(Topic(str(what)), number)
            case "read":
                readers[int(str(what))].look()
            case "between":
                reader = readers[int(str(what))]
                topics = reader.news.wait(0.0)
                board.write(Topic.WEIGHTS, number)
                reader.knows |= board.read(topics)
            case _:  # a server that has an older state, and ids of entries that begin again
                keys = board.broker.keys
                board.broker.run(lambda client, key=keys.news: client.delete(key))
                board.broker.run_id = uuid.uuid4().hex
                board.write(Topic.CONTROL, 0)
    for reader in readers:
        reader.look()
        assert reader.knows == board.read(EVERYTHING)
    board.broker.close()


def test_readers_that_are_blocked_see_every_last_state(redis_server: str, run_name: str) -> None:
    """Nobody looks without being woken here: a wake-up that is lost is a state that never comes."""
    board = Board(Broker.connect(redis_server, run_name))
    brokers = [Broker.connect(redis_server, run_name) for _ in range(6)]
    readers = [Reader(Board(broker), str(number)) for number, broker in enumerate(brokers)]
    last = 200
    ended = threading.Event()

    def follow(reader: Reader) -> None:
        while not ended.is_set():
            reader.look(5.0)

    threads = [threading.Thread(target=follow, args=(reader,)) for reader in readers]
    for thread in threads:
        thread.start()
    for number in range(last + 1):
        board.write(Topic.WEIGHTS, number)
        wake(board.broker)
    wait_until(lambda: all(reader.knows.get(Topic.WEIGHTS) == last for reader in readers), lambda: str(readers))
    ended.set()
    wake(board.broker)
    for thread in threads:
        thread.join()
    for broker in [*brokers, board.broker]:
        broker.close()


def test_a_reader_looks_at_everything_once_in_an_interval(redis_server: str, run_name: str) -> None:
    broker, now = Broker.connect(redis_server, run_name), [0.0]
    news = News(broker, "a", look_every_s=5.0, clock=lambda: now[0])
    assert news.wait(9.0) == EVERYTHING, "the first call does not wait"
    found = []
    for now[0] in (1.0, 4.9, 5.0, 6.0, 9.9, 10.0):
        found.append(news.wait(0.0))
    assert found == [frozenset(), frozenset(), EVERYTHING, frozenset(), frozenset(), EVERYTHING]
    broker.close()


def write(learner: LearnerPort) -> dict[str, tuple[Callable[[], object], set[Topic]]]:
    control = ASYNC.model_copy(update={"state": RunState.DRAIN})
    order = EvalOrder("held-out", 0, version_of(1, 0), 2, "")
    return {
        "control": (lambda: learner.set_control(control), {Topic.CONTROL}),
        "weights": (lambda: learner.announce(make_weights(batch=1)), {Topic.WEIGHTS}),
        "evaluation": (lambda: learner.issue_eval([order]), {Topic.EVAL}),
        "fence": (lambda: learner.refence(newest_claim=1, lwm=0, cursor=0), {Topic.CONTROL, Topic.EVAL, Topic.WEIGHTS}),
        "request": (lambda: learner.view.request("stop"), {Topic.REQUEST}),
        "desired": (lambda: learner.view.want(2), {Topic.DESIRED}),
        "leave": (lambda: learner.view.ask_to_leave(["a"], 1.0), {Topic.LEAVE}),
        "plan": (lambda: learner.plan(1, b""), set()),
    }


@pytest.mark.parametrize("name", ["control", "weights", "evaluation", "fence", "request", "desired", "leave", "plan"])
def test_what_is_written_is_news_and_wakes_every_part(learner: LearnerPort, broker: Broker, name: str) -> None:
    act, topics = write(learner)[name]
    news = News(broker, "a", look_every_s=NEVER_S)
    for _ in range(2):
        news.wait(0.0)
    woken = _woken(broker)
    act()
    assert news.wait(0.0) == topics
    assert all(after > before for before, after in zip(woken, _woken(broker), strict=True)) is bool(topics)


def test_evaluation_orders_that_come_back_are_news(learner: LearnerPort, broker: Broker) -> None:
    version = version_of(1, 0)
    learner.issue_eval([EvalOrder("held-out", index, version, 2, "") for index in range(2)])
    actor = make_actor_port(broker, "a1")
    orders = actor.take_eval(2, 0.0, version)
    news = News(broker, "a", look_every_s=NEVER_S)
    for _ in range(2):
        news.wait(0.0)
    actor.hand_back(orders[:1])
    assert news.wait(0.0) == {Topic.EVAL}
    broker.call("reap", "a1", "", 3)
    assert news.wait(0.0) == {Topic.EVAL}


def test_a_refused_write_is_no_news(learner: LearnerPort) -> None:
    news = News(learner.broker, "a", look_every_s=NEVER_S)
    for _ in range(2):
        news.wait(0.0)
    learner.broker.run(lambda client: client.delete(learner.broker.keys.incarnation))
    with pytest.raises(BrokerChangedError):
        learner.announce(make_weights(batch=1))
    assert news.wait(0.0) == frozenset()


def test_scripts_keep_as_many_entries_as_readers_expect() -> None:
    scripts = Path(module.__file__).parent / "scripts"
    found = [re.findall(r"'XADD', news, 'MAXLEN', (\d+)", file.read_text()) for file in scripts.glob("*.lua")]
    assert {int(number) for numbers in found for number in numbers} == {KEPT}


def _woken(broker: Broker) -> list[bytes]:
    keys = [broker.keys.wake(part) for part in range(module.PARTS)]
    found = broker.run(lambda client: [client.xrevrange(key, count=1) for key in keys])
    return [entries[0][0] if entries else b"" for entries in found]

"""Orders held: where each is at any moment, what is told of it, and that each has one end."""

import asyncio
from collections import Counter
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, field, replace
from typing import TYPE_CHECKING, cast

import pytest
from hypothesis import given
from hypothesis import strategies as st
from wire_records import make_group

from isentrope.actors import orders as module
from isentrope.actors.broker_calls import BrokerCaller
from isentrope.actors.groups import Generated, GroupMaker, Lost, Order, TooFewResponsesError, Tools
from isentrope.actors.orders import Changes, Orders
from isentrope.errors import RecordError, RewardError
from isentrope.rollout.broker.actor_port import ActorPort, PublishResult
from isentrope.rollout.data.prompts import PromptTooLongError
from isentrope.rollout.wire.types import EvalOrder, EvalResult, Group, Missing, MissingReason, WorkOrder

if TYPE_CHECKING:
    from isentrope.actors.engine import Engine

FAILURES: dict[str, BaseException] = {
    "too_long": PromptTooLongError("601 tokens"),
    "reward": TooFewResponsesError({0: Lost(Missing(0, MissingReason.REWARD), RewardError("no number"))}, 1),
    "record": RecordError("size"),
    "cancelled in the engine": asyncio.CancelledError(),
    "cancelled in the reward": asyncio.CancelledError(),
}
IN_ENGINE = ("too_long", "cancelled in the engine")
HANDED_BACK = "handed back"
TOKENS = 7


@dataclass(frozen=True)
class _Generated:
    order: Order
    tokens: int = TOKENS


@dataclass
class Script:
    """Maker and port of an actor, as far as orders see them: an order goes on when the test lets it."""

    version: int = 1
    room: bool = True
    actor: str = "a1"
    wrong: dict[Order, str] = field(default_factory=dict)
    at: dict[Order, str] = field(default_factory=dict)
    """Where each order is: `generate`, `score`, `send`, `done`; before that it waits for its weights."""
    reasons: dict[Order, str] = field(default_factory=dict)
    ends: Counter[Order] = field(default_factory=Counter)
    changes: Changes = field(default_factory=Changes)
    _go: dict[Order, asyncio.Event] = field(default_factory=dict)

    def orders(self, *, skip_too_long: bool = True) -> Orders:
        tools: asyncio.Future[Tools] = asyncio.get_running_loop().create_future()
        tools.set_result(Tools(cast("Engine", None), cast(GroupMaker, self)))
        port, call = cast(ActorPort, self), cast(BrokerCaller, self._call)
        return Orders(port, tools, skip_too_long=skip_too_long, call=call, changes=self.changes)

    async def let(self, order: Order) -> None:
        """Let an order make its next step, if it is held before one."""
        if self.at.get(order) in ("generate", "score"):
            self._go[order].set()
        await settled()

    async def generate(self, order: Order) -> Generated:
        await self._hold(order, "generate")
        if (wrong := self.wrong[order]) in IN_ENGINE:
            raise FAILURES[wrong]
        return cast(Generated, _Generated(order))

    async def score(self, generated: Generated, actor: str) -> Group:
        await self._hold(generated.order, "score")
        if error := FAILURES.get(self.wrong[generated.order]):
            raise error
        return make_group()

    def hand_back(self, orders: list[Order]) -> None:
        for order in orders:
            self.at[order], self.reasons[order] = "done", HANDED_BACK
            self.ends[order] += 1

    def publish(self, group: Group, order: WorkOrder) -> PublishResult:
        return self._take(order, "")

    def publish_eval(self, result: EvalResult, order: EvalOrder) -> PublishResult:
        return self._take(order, "")

    def fail(
        self, order: Order, reason: str, detail: str, missing: Sequence[Missing] = (), *, version: int = 0
    ) -> PublishResult:
        if reason in ("reward", "record"):
            assert version >= max(1, order.min_version if isinstance(order, WorkOrder) else 0), "who made it"
        else:
            assert version == 0, "weights do not matter"
        return self._take(order, reason)

    def _take(self, order: Order, reason: str) -> PublishResult:
        if not self.room:
            self.at[order] = "send"
            return PublishResult.FULL
        self.at[order], self.reasons[order] = "done", reason
        self.ends[order] += 1
        return PublishResult.DONE

    async def _hold(self, order: Order, where: str) -> None:
        self.at[order], self._go[order] = where, asyncio.Event()
        await self._go[order].wait()

    async def _call(self, send: Callable[[], PublishResult]) -> PublishResult:
        return send()


async def settled() -> None:
    """Let every task go as far as it can: a step takes a few turns of the event loop, and nothing waits for a clock."""
    for _ in range(30):
        await asyncio.sleep(0)


@pytest.fixture(scope="module", autouse=True)
def no_pauses() -> Iterator[None]:
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(module, "FULL_PAUSE_S", 0.0)
        yield


def work(number: int, min_version: int = 0) -> WorkOrder:
    return WorkOrder(number, 0, 1, min_version, 0, "work", f"{number}-0")


def check(orders: Orders, script: Script, begun: list[Order]) -> None:
    """What orders say of themselves is what happened to each."""
    generated = [
        order
        for order in begun
        if script.wrong[order] not in IN_ENGINE and script.at.get(order, "generate") != "generate"
    ]
    held = [order for order in begun if script.at.get(order) != "done"]
    sent = {order for order in held if script.at.get(order) == "send"}
    before = {order for order in held if script.at.get(order, "generate") == "generate"}
    assert script.at.keys() == {
        order for order in begun if isinstance(order, EvalOrder) or order.min_version <= script.version
    }
    assert len(orders) == len(held)
    assert orders.groups == sum(isinstance(order, WorkOrder) for order in held)
    assert orders.groups_in_engine == sum(isinstance(order, WorkOrder) for order in before)
    assert orders.evals_in_engine == sum(isinstance(order, EvalOrder) for order in before)
    assert orders.no_room == bool(sent)
    assert orders.tokens == TOKENS * len(generated)


events = st.one_of(
    st.tuples(st.just("begin"), st.booleans(), st.integers(0, 3), st.sampled_from(["", "", *FAILURES])),
    st.tuples(st.just("let"), st.integers(0, 20)),
    st.tuples(st.just("let"), st.integers(0, 20)),
    st.tuples(st.just("load"), st.integers(0, 3)),
    st.tuples(st.just("room"), st.booleans()),
)


@given(st.lists(events, max_size=30))
def test_orders_are_where_they_say_and_each_has_one_end(story: list[tuple[str, *tuple[object, ...]]]) -> None:
    async def play() -> None:
        script, begun = Script(), list[Order]()
        orders = script.orders()

        async def happen(what: str, *facts: object) -> None:
            match what, facts:
                case "begin", (bool() as is_eval, int() as version, str() as wrong):
                    number = len(begun)
                    order = EvalOrder("heldout", number, 1, 4, f"{number}-1") if is_eval else work(number, version)
                    script.wrong[order] = wrong
                    begun.append(order)
                    orders.begin([order], tasks)
                case "let", (int() as index,) if begun:
                    await script.let(begun[index % len(begun)])
                case "load", (int() as version,):
                    script.version = max(version, script.version)
                    script.changes.tell()
                case "room", (bool() as room,):
                    script.room = room
            await settled()
            check(orders, script, begun)

        async with asyncio.TaskGroup() as tasks:
            for event in story:
                await happen(*event)
            await happen("room", True)
            await happen("load", 3)
            for index in [*range(len(begun))] * 2:
                await happen("let", index)
            assert len(orders) == 0
        assert script.ends == Counter(begun)
        handed_back = {order: HANDED_BACK for order in begun if script.wrong[order].startswith("cancelled")}
        assert script.reasons == {order: script.wrong[order] for order in begun} | handed_back

    asyncio.run(play())


@pytest.mark.parametrize(
    "leases",
    [
        (work(1), replace(work(1), stream="work:hi", entry_id="2-0")),
        (EvalOrder("heldout", 1, 1, 4, "1-0"), EvalOrder("heldout", 1, 1, 4, "2-0")),
    ],
)
def test_an_order_that_is_cancelled_from_within_again_is_given_up(leases: tuple[Order, Order]) -> None:
    async def play() -> None:
        script = Script()
        orders = script.orders()
        async with asyncio.TaskGroup() as tasks:
            for leased, reason in zip(leases, (HANDED_BACK, "engine"), strict=True):
                script.wrong[leased] = "cancelled in the engine"
                orders.begin([leased], tasks)
                await settled()
                await script.let(leased)
                assert script.reasons[leased] == reason

    asyncio.run(play())


def test_what_is_left_at_the_end_is_dropped_and_told_to_nobody() -> None:
    async def play() -> None:
        script = Script()
        orders, (first, second) = script.orders(), (work(0), work(1))
        script.wrong = {first: "", second: ""}
        async with asyncio.TaskGroup() as tasks:
            orders.begin([first, second], tasks)
            await settled()
            for _ in range(2):
                await script.let(first)
            await orders.finish(0.0)
            await settled()
            assert len(orders) == 0
        assert script.ends == {first: 1}

    asyncio.run(play())


@pytest.mark.parametrize("wrong", ["too_long", "broken"])
def test_what_can_be_right_in_no_order_ends_all(wrong: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(FAILURES, "broken", RewardError("raised ValueError"))

    async def play() -> None:
        script = Script()
        orders, order = script.orders(skip_too_long=False), work(0)
        script.wrong = {order: wrong}
        async with asyncio.TaskGroup() as tasks:
            orders.begin([order], tasks)
            await settled()
            for _ in range(2):
                await script.let(order)

    with pytest.raises(ExceptionGroup) as caught:
        asyncio.run(play())
    assert [type(error) for error in caught.value.exceptions] == [type(FAILURES[wrong])]

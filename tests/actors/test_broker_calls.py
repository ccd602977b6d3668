"""Blocking calls from an event loop: a deadline, and an end that is waited for."""

import asyncio
import threading

import pytest
from waits import DEADLINE_S, until

from isentrope.actors.broker_calls import BrokerCaller
from isentrope.errors import NoScriptsError, UnreachableError


class Flaky:
    """Fails a few times before it answers."""

    def __init__(self, failures: int, error: type[UnreachableError] = UnreachableError) -> None:
        self.failures = failures
        self.error = error

    def __call__(self, answer: int) -> int:
        if self.failures:
            self.failures -= 1
            raise self.error("not there")
        return answer


def test_a_call_is_repeated_while_nobody_answers() -> None:
    assert asyncio.run(BrokerCaller(DEADLINE_S)(Flaky(3), 7)) == 7


def test_repeating_ends_at_the_deadline() -> None:
    with pytest.raises(UnreachableError, match="it was tried for 0 s in all"):
        asyncio.run(BrokerCaller(0.0)(Flaky(1_000_000), 7))


def test_a_learner_that_has_still_to_open_the_run_is_waited_for_longer_than_a_broker() -> None:
    call = BrokerCaller(0.0, open_timeout_s=DEADLINE_S)
    assert asyncio.run(call(Flaky(3, NoScriptsError), 7)) == 7
    with pytest.raises(UnreachableError, match="it was tried for 0 s in all"):
        asyncio.run(call(Flaky(1_000_000), 7))


def test_other_errors_are_not_repeated() -> None:
    def broken() -> None:
        raise ValueError("once")

    with pytest.raises(ValueError, match="once"):
        asyncio.run(BrokerCaller(DEADLINE_S)(broken))


def test_a_cancelled_call_is_waited_for() -> None:
    began, end = threading.Event(), threading.Event()

    async def cancel() -> None:
        calling = asyncio.create_task(BrokerCaller(DEADLINE_S)(lambda: began.set() or end.wait()))
        await until(began.is_set, "the call")
        calling.cancel()
        for _ in range(100):
            await asyncio.sleep(0)  # lets the task do what it can
        assert not calling.done()
        end.set()
        with pytest.raises(asyncio.CancelledError):
            await calling

    asyncio.run(cancel())

"""A call that hangs is given up, and its thread keeps nothing from ending."""

import asyncio
import subprocess
import sys
import threading

import pytest
from waits import DEADLINE_S

from isentrope.actors.deadlines import within


def test_what_a_call_returns_or_raises_comes_back() -> None:
    assert asyncio.run(within(DEADLINE_S, len, "abc")) == 3
    with pytest.raises(ZeroDivisionError):
        asyncio.run(within(DEADLINE_S, lambda number: 1 // number, 0))


def test_a_call_that_hangs_is_given_up_and_may_end_later() -> None:
    ends = threading.Event()

    async def hang() -> None:
        with pytest.raises(TimeoutError):
            await within(0.05, ends.wait, None)
        ends.set()

    asyncio.run(hang())


def test_a_process_ends_beside_a_call_that_hangs() -> None:
    code = (
        "import asyncio, time; from isentrope.actors.deadlines import within\n"
        "try: asyncio.run(within(0.05, time.sleep, 1e6))\n"
        "except TimeoutError: print('given up')"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, timeout=DEADLINE_S, check=True)
    assert done.stdout == "given up\n"

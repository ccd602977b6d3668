"""The first interrupt asks, the second ends; afterwards everything is as before."""

import os
import signal

import pytest

from isentrope.launch.interrupts import SIGNALS, Interrupts


@pytest.mark.parametrize("number", SIGNALS)
def test_first_asks_and_second_ends(number: signal.Signals) -> None:
    before = signal.getsignal(number)
    with pytest.raises(KeyboardInterrupt), Interrupts() as interrupts:
        assert not interrupts.asked
        os.kill(os.getpid(), number)
        assert interrupts.asked
        os.kill(os.getpid(), number)
    assert signal.getsignal(number) is before


def test_the_signals_are_taken_again_from_a_library() -> None:
    with Interrupts() as interrupts:
        signal.signal(signal.SIGTERM, signal.SIG_IGN)
        interrupts.renew()
        signal.raise_signal(signal.SIGTERM)
        assert interrupts.asked

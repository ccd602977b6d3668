"""Built-in tasks, generators of problems with their verifiers: `task:<name>` in the configuration."""

from collections.abc import Callable
from typing import Protocol

from isentrope.errors import ConfigError, nearest
from isentrope.rollout.data.rows import Row
from isentrope.rollout.data.tasks.digit_walk import DigitWalk

_TASKS = {"digit_walk": DigitWalk}


class Task(Protocol):
    """Endless training problems, a fixed held-out set disjoint from them, and a reward function for both."""

    @property
    def eval_count(self) -> int: ...

    @property
    def digest(self) -> str:
        """Digest that changes when any problem changes."""
        ...

    def train(self, seq: int) -> Row:
        """Return training problem `seq`: a pure function of the seed and `seq`."""
        ...

    def eval(self, index: int) -> Row:
        """Return held-out problem `index`: the same for every seed."""
        ...

    @property
    def verify(self) -> Callable[..., object]:
        """Reward function over the columns of the task's rows."""
        ...


def open_task(name: str, seed: int = 0) -> Task:
    """Return the task called `name`; `seed` chooses the training problems."""
    if name not in _TASKS:
        close = nearest(name, _TASKS)
        raise ConfigError(
            f"there is no task {name!r}; there are: {', '.join(_TASKS)}",
            fix=f"write task:{close}" if close else "",
        )
    return _TASKS[name](seed)

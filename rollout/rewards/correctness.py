"""Correctness: what makes a response correct, as `data.correct` says it. The reward alone does not say it: a sum of
several functions may be high for a wrong answer.
"""

import math
import re
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import Protocol

from isentrope.errors import ConfigError, nearest
from isentrope.rollout.config import DataConfig

WHOLE = "reward"
"""Word for the weighted sum of all reward functions."""

NOTHING = "nothing"
"""Word for graded rewards: no response is correct or wrong, one is only better than another."""

DEFAULT_ABOVE = 0.5

_FORM = re.compile(r"\s*(?P<source>[^\s>]+)\s*(?:>\s*(?P<above>[^\s>=]+)\s*)?")

_FORMS = '"my_module:accuracy", "my_module:accuracy > 0.9", "reward > 1.5" or "nothing"'


class Rewarded(Protocol):
    """Response that the reward functions have judged."""

    @property
    def reward(self) -> float:
        """Weighted sum of the functions that apply."""
        ...

    @property
    def reward_parts(self) -> Mapping[str, float]:
        """Value of each of them, and of their components, by name."""
        ...


@dataclass(frozen=True, slots=True)
class Correctness:
    """The rule by which a response is correct: a value of its reward is above a threshold."""

    source: str
    """Name of a reward function, or of a component of one as `function.component`; `WHOLE`: the weighted sum."""
    above: float

    def holds(self, reward: float, parts: Mapping[str, float]) -> bool:
        """Return whether a response is correct.

        Args:
            reward: the weighted sum.
            parts: the value of each function and component by name. A function that is not here did not apply, and
                then the response is not correct.
        """
        value = reward if self.source == WHOLE else parts.get(self.source, -math.inf)
        return value > self.above

    def __str__(self) -> str:
        return f"{self.source} > {self.above:g}"


def judge(rule: Correctness | None, responses: Iterable[Rewarded]) -> list[bool] | None:
    """Return which responses are correct; None: rewards are graded, and none of them is correct or wrong."""
    return None if rule is None else [rule.holds(each.reward, each.reward_parts) for each in responses]


def parse(text: str) -> Correctness | None:
    """Return the rule of a `data.correct` that is set; None: rewards are graded.

    Raises:
        ConfigError: the text is not of one of the forms.
    """
    if text == NOTHING:
        return None
    found = _FORM.fullmatch(text)
    above = _number(found["above"]) if found is not None else None
    if found is None or above is None:
        raise ConfigError(f"{text!r} does not say what is correct", where="data.correct", fix=f"write {_FORMS}")
    if found["source"] == WHOLE and found["above"] is None:
        raise ConfigError(
            f"{text!r} does not say above which reward a response is correct",
            where="data.correct",
            fix=f'write "{WHOLE} > 1.5" with a threshold of your own, or the name of one reward function',
        )
    return Correctness(found["source"], above)


def reward_names(data: DataConfig) -> list[str]:
    """Return the names of a run's reward functions; where none is set, that of the task whose verifier it is."""
    if data.reward:
        return [data.reward] if isinstance(data.reward, str) else list(data.reward)
    return [data.task] if data.task else []


def weights_of(data: DataConfig) -> dict[str, float]:
    """Return the weight of each reward function of a run, by its name and in their order."""
    names = reward_names(data)
    return dict(zip(names, data.reward_weights or [1.0] * len(names), strict=True))


def correctness_of(data: DataConfig) -> Correctness | None:
    """Return the rule of a run; None: its rewards are graded. Unset, the only function decides, above 0.5.

    Raises:
        ConfigError: `data.correct` is not of one of the forms, names another function, or is empty beside several.
    """
    functions = reward_names(data)
    if data.correct:
        rule = parse(data.correct)
        if rule is not None and not _is_known(rule.source, functions):
            close = nearest(rule.source, functions)
            raise ConfigError(
                f"{rule.source!r} is not one of the reward functions: {', '.join(functions)}",
                where="data.correct",
                fix=f'write correct = "{close or functions[0]}"' if functions else "",
            )
        return rule
    if len(functions) > 1:
        raise ConfigError(
            f"there are {len(functions)} reward functions, and nothing says which of them makes a response correct",
            where="data.correct",
            fix=f'add the line correct = "{functions[0]}" to [data], or "{_all_of(data)}", or "{NOTHING}" where '
            "rewards are graded",
        )
    return Correctness(functions[0], DEFAULT_ABOVE) if functions else None


def _all_of(data: DataConfig) -> str:
    """Return the rule that all functions of positive weight, if their values are 0 or 1, hold of a response."""
    weights = [weight for weight in data.reward_weights or [1.0] * len(data.reward) if weight > 0]
    return f"{WHOLE} > {sum(weights) - min(weights, default=0.0) / 2:g}"


def _is_known(source: str, functions: Sequence[str]) -> bool:
    return source == WHOLE or any(source == name or source.startswith(f"{name}.") for name in functions)


def _number(text: str | None) -> float | None:
    """Return the number; the default for no text, None for another text."""
    if text is None:
        return DEFAULT_ABOVE
    try:
        number = float(text)
    except ValueError:
        return None
    return number if math.isfinite(number) else None

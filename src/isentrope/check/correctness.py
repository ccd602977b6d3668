"""The rule of `data.correct` compared with the values that the reward functions gave to made-up responses."""

from collections.abc import Iterable, Mapping, Sequence

from isentrope.errors import ConfigError, nearest
from isentrope.rollout.config import DataConfig
from isentrope.rollout.rewards.correctness import NOTHING, WHOLE, Correctness, correctness_of, reward_names

KEY = "data.correct"


def doubts(data: DataConfig, seen: Sequence[Mapping[str, float]]) -> list[str]:
    """Return notes about a rule that may not be what is meant.

    Args:
        data: names the functions and the rule.
        seen: values of the functions and components of each response, by name.

    Raises:
        ConfigError: the rule is about a component that its function does not give.
    """
    rule, names = correctness_of(data), reward_names(data)
    if rule is None or not seen:
        return []
    if rule.source not in (WHOLE, *names):
        return _unseen(rule, names, {name for values in seen for name in values})
    return [] if data.correct else _graded(rule, [values[rule.source] for values in seen if rule.source in values])


def _unseen(rule: Correctness, functions: Iterable[str], seen: Iterable[str]) -> list[str]:
    """Return a note if the function of the rule's component gave no component; refuse it if it gave others."""
    function = max((name for name in functions if rule.source.startswith(f"{name}.")), key=len)
    components = sorted(name for name in seen if name.startswith(f"{function}."))
    if not components:
        return [
            f"{function} gave made-up responses no component, and {KEY} is about {rule.source!r}: a response without "
            "it is not correct"
        ]
    if rule.source not in components:
        raise ConfigError(
            f"{rule.source!r} is not one of the components that {function} gives: {', '.join(components)}",
            where=KEY,
            fix=f'write correct = "{nearest(rule.source, components) or components[0]}", or give the component for '
            "every response",
        )
    return []


def _graded(rule: Correctness, values: Iterable[float]) -> list[str]:
    """Return a note if the only function, which decides unless a rule is set, gives more than 0 and 1."""
    other = next((value for value in values if value not in (0, 1)), None)
    if other is None:
        return []
    return [
        f"{rule.source} gives {other:g}, and a response is correct above {rule.above:g}: if rewards are "
        f'graded, add the line correct = "{NOTHING}" to [data], or correct = "{rule.source} > 0.9" with a threshold of '
        "your own"
    ]

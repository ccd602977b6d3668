"""Responses as text: each token shaded by its entropy, before training beside after."""

from collections.abc import Iterable, Sequence
from dataclasses import dataclass

from isentrope.learner.records import SampleRow

SHADE_FULL_AT = 1.5
"""Entropy in nats at which a token has the deepest shade."""

SHOWN_PROMPTS = 4

SHOWN_TOKENS = 400
"""Maximum tokens shown of one response."""


@dataclass(frozen=True, slots=True)
class Token:
    """One token of a response. `shade` in percent of the deepest."""

    text: str
    shade: int
    nats: str


@dataclass(frozen=True, slots=True)
class Answer:
    """A response and its reward."""

    tokens: tuple[Token, ...]
    left_out: int
    """Number of tokens that are not shown."""
    reward: str
    good: bool
    """True if it is correct; where nothing says so, if its reward is above zero."""


@dataclass(frozen=True, slots=True)
class Pair:
    """Responses to one prompt, before training and after."""

    prompt: str
    before: tuple[Answer, ...]
    after: tuple[Answer, ...]


def pairs(samples: Sequence[SampleRow]) -> tuple[Pair, ...]:
    """Return the first prompts that were answered both before training and at the last evaluation."""
    last = max((sample.batch for sample in samples), default=0)
    before = _by_prompt(sample for sample in samples if sample.batch == 0)
    after = _by_prompt(sample for sample in samples if sample.batch == last)
    if last == 0:
        return ()
    shown = sorted(before.keys() & after.keys())[:SHOWN_PROMPTS]
    return tuple(Pair(before[i][0].prompt, _answers(before[i]), _answers(after[i])) for i in shown)


def _by_prompt(samples: Iterable[SampleRow]) -> dict[tuple[str, int], list[SampleRow]]:
    grouped: dict[tuple[str, int], list[SampleRow]] = {}
    for sample in samples:
        grouped.setdefault((sample.name, sample.index), []).append(sample)
    return grouped


def _answers(samples: Sequence[SampleRow]) -> tuple[Answer, ...]:
    return tuple(
        Answer(
            tokens=tuple(map(_token, sample.tokens[:SHOWN_TOKENS], sample.entropy[:SHOWN_TOKENS])),
            left_out=max(0, len(sample.tokens) - SHOWN_TOKENS),
            reward=f"{sample.reward:g}",
            good=sample.reward > 0 if sample.correct is None else sample.correct,
        )
        for sample in samples
    )


def _token(text: str, nats: float) -> Token:
    return Token(text, round(100 * min(max(nats, 0.0) / SHADE_FULL_AT, 1.0)), f"{nats:.2f}")

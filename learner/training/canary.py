"""The tokens of a canary: an engine must give them the learner's log-probabilities before it serves a version.

Log-probabilities of tokens that a policy has just generated carry less rounding noise than those of arbitrary ones; of
a batch that was trained, all of them are at hand. All canaries of a run are equally long, because an engine compiles
code for each length.
"""

import itertools
import random
from collections.abc import Iterator

from isentrope.learner.intake.ragged import RaggedBatch, starts_of
from isentrope.rollout.wire.proof import CanaryTokens

CANARY_TOKENS = 97
"""Tokens of a canary: 96 log-probabilities. The rows of a canary cost an engine time, the tokens of a row do not."""


def first_tokens(vocab_size: int) -> CanaryTokens:
    """Return the canary of a learner that has not trained a batch yet: arbitrary tokens, the same every time."""
    tokens = tuple(random.Random(0).choices(range(vocab_size), k=CANARY_TOKENS))
    return CanaryTokens(tokens=tokens, arbitrary=True)


def tokens_of(ragged: RaggedBatch) -> CanaryTokens:
    """Return the beginning of a trained batch: prompt and response after prompt and response, again and again if the
    batch is shorter."""
    return CanaryTokens(tokens=tuple(itertools.islice(itertools.cycle(_tokens(ragged)), CANARY_TOKENS)))


def _tokens(ragged: RaggedBatch) -> Iterator[int]:
    prompts, responses = starts_of(ragged.prompt_length), starts_of(ragged.length)
    for row, group in enumerate(ragged.group):
        prompt, response = prompts[group], responses[row]
        yield from ragged.prompt[prompt : prompt + ragged.prompt_length[group]].tolist()
        yield from ragged.tokens[response : response + ragged.length[row]].tolist()

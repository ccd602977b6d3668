"""The tokens of canaries: as many in every version, from the batch that was trained."""

from toy_batch import make_toy_rows, prompt_of, tokens_of

from isentrope.learner.training import canary
from isentrope.learner.training.canary import CANARY_TOKENS, first_tokens
from isentrope.rollout.wire.proof import CanaryTokens


def test_the_first_are_the_same_every_time_and_within_the_vocabulary() -> None:
    assert first_tokens(46) == first_tokens(46)
    assert len(first_tokens(46).tokens) == CANARY_TOKENS
    assert max(first_tokens(46).tokens) < 46 <= max(first_tokens(4600).tokens)
    assert first_tokens(46).arbitrary


def test_those_of_a_batch_are_its_first_prompts_and_responses() -> None:
    ragged = make_toy_rows(groups=8, group_size=4)
    rows = [int(token) for row in range(32) for token in (*prompt_of(ragged, row), *tokens_of(ragged, row))]
    assert canary.tokens_of(ragged) == CanaryTokens(tokens=tuple(rows[:CANARY_TOKENS]), arbitrary=False)


def test_a_short_batch_is_repeated() -> None:
    ragged = make_toy_rows(groups=1, group_size=1)
    rows = (*prompt_of(ragged, 0), *tokens_of(ragged, 0))
    assert len(rows) < CANARY_TOKENS
    assert canary.tokens_of(ragged).tokens == (rows * CANARY_TOKENS)[:CANARY_TOKENS]

"""One batch as it travels: from the groups as they were decoded to the ranks, without padding.

Rank 0 makes a `RaggedBatch` of groups. Every rank needs the numbers of all tokens, but the tokens themselves only of
the rows that its network sees: the others get a batch without text as bytes, and then the text of these rows.

P prompts, L tokens of all prompts, N responses, S tokens of all responses.
"""

import io
from collections.abc import Iterable, Sequence
from dataclasses import dataclass, fields, replace
from typing import Any, TypeAlias

import numpy as np
from numpy.typing import NDArray

from isentrope.learner.objective.batch import Responses
from isentrope.rollout.rewards.correctness import Correctness, judge
from isentrope.rollout.wire.types import Finish, Group, Int64, batch_of

Array: TypeAlias = NDArray[Any]

ELSEWHERE = -1
"""Place of a token that another rank has: an embedding refuses it."""

_BITS = ("mask", "fresh")
"""Columns that travel with a bit for each token."""


@dataclass(frozen=True, slots=True, kw_only=True)
class RaggedBatch(Responses[Array]):
    """All that training needs to know of one batch, the same on every rank."""

    prompt: Array
    """[L] int32: tokens of all prompts, end to end."""
    prompt_length: Int64
    """[P]: tokens of each prompt."""
    tokens: Array
    """[S] int32: tokens of all responses, end to end."""

    @property
    def packed_length(self) -> Int64:
        """[N]: tokens that the network sees of each response; what plans count."""
        packed: Int64 = self.prompt_length[self.group] + self.length - 1
        return packed

    @property
    def shape(self) -> tuple[int, int]:
        """N responses, T tokens of the longest: the shape of a padded column."""
        return len(self.length), int(self.length.max())

    def to_bytes(self) -> bytes:
        """Return all columns in NumPy's own format, ages of tokens as runs of equal ones."""
        given = {each.name: getattr(self, each.name) for each in fields(self)}
        columns: dict[str, Any] = {name: np.asarray(value) for name, value in given.items() if value is not None}
        columns |= {name: np.packbits(columns[name]) for name in _BITS if name in columns}
        columns["lag"] = np.stack(_runs(columns["lag"]))
        buffer = io.BytesIO()
        np.savez(buffer, **columns)
        return buffer.getvalue()

    @classmethod
    def from_bytes(cls, blob: bytes) -> "RaggedBatch":
        """Return what `to_bytes` wrote; no code of the sender runs."""
        with np.load(io.BytesIO(blob), allow_pickle=False) as table:
            columns: dict[str, Any] = {name: table[name] for name in table.files}
        tokens = int(columns["length"].sum())
        bits = {name: np.unpackbits(columns[name], count=tokens) for name in _BITS if name in columns}
        columns |= {name: values.astype(np.bool_) for name, values in bits.items()}
        columns["lag"] = np.repeat(*columns["lag"])
        columns["number"] = int(columns["number"])
        columns["source_names"] = tuple(str(name) for name in columns["source_names"])
        return cls(**columns)

    def without_text(self) -> "RaggedBatch":
        """Return the batch without the tokens of prompts and responses."""
        return replace(self, prompt=self.prompt[:0], tokens=self.tokens[:0])

    def text_of(self, rows: Sequence[int]) -> Array:
        """Return the tokens of the prompts of responses `rows` and then of these responses, int32."""
        prompt, response = self._places(rows)
        return np.concatenate([self.prompt[prompt], self.tokens[response]])

    def text_length(self, rows: Sequence[int]) -> int:
        """Return the number of tokens that `text_of` has."""
        return int(sum(places.sum() for places in self._places(rows)))

    def with_text(self, rows: Sequence[int], text: Array) -> "RaggedBatch":
        """Return a batch without text with that of responses `rows`, which `text_of` has returned elsewhere."""
        in_prompts, in_responses = self._places(rows)
        prompt, tokens = (np.full(len(places), ELSEWHERE, np.int32) for places in (in_prompts, in_responses))
        prompt[in_prompts], tokens[in_responses] = np.split(text, [in_prompts.sum()])
        return replace(self, prompt=prompt, tokens=tokens)

    def _places(self, rows: Sequence[int]) -> tuple[Array, Array]:
        """Return which tokens of all prompts [L] and of all responses [S] belong to responses `rows`."""
        groups = np.isin(np.arange(len(self.prompt_length)), self.group[list(rows)])
        responses = np.isin(np.arange(len(self.length)), list(rows))
        return np.repeat(groups, self.prompt_length), np.repeat(responses, self.length)


def make_ragged(
    groups: Iterable[Group],
    *,
    number: int,
    token_max_lag: int,
    correctness: Correctness | None,
    newest_version: int = 0,
) -> RaggedBatch:
    """Lay the responses of `groups` end to end; the order in which groups are given does not matter.

    Args:
        groups: groups of distinct seqs.
        number: batches trained before this one. Versions of an abandoned lineage may be ahead of it: their lag is 0.
        token_max_lag: older tokens are masked.
        correctness: what makes a response correct; None: rewards are graded.
        newest_version: newest published version; its tokens are fresh if it is the policy before the batch.
    """
    groups = sorted(groups, key=lambda group: group.seq)
    responses = [response for group in groups for response in group.responses]
    count = [len(group.responses) for group in groups]
    owner = np.repeat(np.arange(len(groups)), count)
    version = np.concatenate([response.versions() for response in responses])
    lag = np.maximum(number - batch_of(version), 0)
    correct = judge(correctness, responses)
    names, source = np.unique([group.source for group in groups], return_inverse=True)
    answers = [response.answer for response in responses]
    answer = np.unique(answers, return_inverse=True)[1]
    return RaggedBatch(
        number=number,
        source_names=tuple(str(name) for name in names),
        group=owner,
        seq=np.array([group.seq for group in groups], np.int64)[owner],
        index=np.concatenate([np.arange(size) for size in count]),
        reward=np.array([response.reward for response in responses], np.float64),
        correct=None if correct is None else np.array(correct, np.bool_),
        length=np.array([len(response.tokens) for response in responses], np.int64),
        truncated=np.array([response.finish is Finish.LENGTH for response in responses], np.bool_),
        source=source.astype(np.int64)[owner],
        answer=np.where(np.array(answers) == "", -1, answer).astype(np.int64),
        mask=np.concatenate([response.mask for response in responses]) & (lag <= token_max_lag),
        lag=lag,
        fresh=(version == newest_version) & (batch_of(version) == number),
        logp_rollout=np.concatenate([response.logp_rollout for response in responses]),
        prompt=np.concatenate([group.prompt for group in groups]),
        prompt_length=np.array([len(group.prompt) for group in groups], np.int64),
        tokens=np.concatenate([response.tokens for response in responses]),
    )


def _runs(values: Array) -> tuple[Array, Array]:
    """Return the value and the length of every run of equal values."""
    begin = np.flatnonzero(np.diff(values, prepend=values[:1] - 1))
    return values[begin], np.diff(begin, append=len(values))


def starts_of(lengths: Int64) -> Int64:
    """Return where each row begins when rows of these lengths lie end to end."""
    starts: Int64 = np.cumsum(lengths) - lengths
    return starts


def places_of(lengths: Int64) -> tuple[Int64, Int64]:
    """Return row and place in the row of every element when rows of these lengths lie end to end."""
    row = np.repeat(np.arange(len(lengths)), lengths)
    return row, np.arange(len(row)) - starts_of(lengths)[row]

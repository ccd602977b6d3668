"""One batch as it travels: from the groups as they were decoded to the ranks, without padding.

Rank 0 makes a `RaggedBatch` of groups, and sends each other rank one of the rows that its network sees (`share.py`).

P prompts, L tokens of all prompts, N responses, S tokens of all responses, Q kept tokens of all sampling masks.
"""

from collections.abc import Collection, Iterable, Mapping, Sequence
from dataclasses import dataclass, fields, replace
from typing import Any

import numpy as np

from isentrope.learner.intake import columns
from isentrope.learner.intake.columns import Array
from isentrope.learner.objective.batch import COLUMNS, PER_TOKEN, Responses
from isentrope.rollout.rewards.correctness import Correctness, judge
from isentrope.rollout.wire.types import Demonstration, Finish, Group, Int64, Response, batch_of, version_of

PREPARING = ("step_correct", "greedy_reward", "parts")
"""Columns that credit and selection read, once a batch, and that not every run has."""


@dataclass(frozen=True, slots=True, kw_only=True)
class RaggedBatch(Responses[Array]):
    """All that training needs to know of a batch, or of some of its responses."""

    longest: int
    """T: tokens of the longest response of the whole batch."""

    prompt: Array
    """[L] int32: tokens of all prompts, end to end."""
    prompt_length: Int64
    """[P]: tokens of each prompt."""
    tokens: Array
    """[S] int32: tokens of all responses, end to end."""
    kept: Array | None = None
    """[Q] int32: tokens among which each was chosen, end to end; None: all of them from the whole vocabulary."""
    kept_count: Array | None = None
    """[S] int32: number of them, for each token; 0: the whole vocabulary."""

    @property
    def packed_length(self) -> Int64:
        """[N]: tokens that the network sees of each response; what plans count."""
        packed: Int64 = self.prompt_length[self.group] + self.length - 1
        return packed

    @property
    def sampled(self) -> Array:
        """[S] bool: tokens of responses, not of demonstrations."""
        sampled: Array = np.ones(len(self.mask), np.bool_) if self.demonstration is None else ~self.demonstration
        return sampled

    @property
    def shape(self) -> tuple[int, int]:
        """N responses, T tokens of the batch's longest: the shape of a padded column."""
        return len(self.length), self.longest

    @property
    def nbytes(self) -> int:
        """Memory of all columns."""
        columns_held = (getattr(self, each.name) for each in fields(self))
        return sum(column.nbytes for column in columns_held if isinstance(column, np.ndarray))

    def to_bytes(self) -> bytes:
        """Return all columns as bytes."""
        given = {each.name: getattr(self, each.name) for each in fields(self)}
        return columns.to_bytes({name: np.asarray(value) for name, value in given.items() if value is not None})

    @classmethod
    def from_bytes(cls, blob: bytes) -> "RaggedBatch":
        """Return what `to_bytes` wrote; no code of the sender runs."""
        found: dict[str, Any] = dict(columns.from_bytes(blob))
        found |= {name: int(found[name]) for name in ("number", "longest")}
        found["source_names"] = tuple(str(name) for name in found["source_names"])
        found["part_weights"] = tuple(float(weight) for weight in found["part_weights"])
        return cls(**found)

    def take(self, rows: Sequence[int]) -> "RaggedBatch":
        """Return the batch of responses `rows`, ascending; groups keep their order, and are numbered anew."""
        chosen = np.asarray(rows, np.int64)
        groups, owner = np.unique(self.group[chosen], return_inverse=True)
        of_prompts = np.repeat(np.isin(np.arange(len(self.prompt_length)), groups), self.prompt_length)
        of_responses = np.repeat(np.isin(np.arange(len(self.length)), chosen), self.length)
        taken: dict[str, Any] = {
            name: column[of_responses if name in PER_TOKEN else chosen]
            for name in COLUMNS
            if (column := getattr(self, name)) is not None
        }
        taken |= {"group": owner, "prompt": self.prompt[of_prompts], "prompt_length": self.prompt_length[groups]}
        if self.kept is not None and self.kept_count is not None:
            taken["kept"] = self.kept[np.repeat(of_responses, self.kept_count)]
            taken["kept_count"] = self.kept_count[of_responses]
        return replace(self, **taken, tokens=self.tokens[of_responses])

    def for_updates(self, read: Collection[str]) -> "RaggedBatch":
        """Return the batch for ranks that do its updates, which read the columns `read`: without the others that only
        its preparation needs. Whoever reads what the engine that sampled computed spoils the loss."""
        left: dict[str, Any] = {name: None for name in PREPARING if name not in read}
        if "logp_rollout" not in read:
            left["logp_rollout"] = np.full_like(self.logp_rollout, np.nan)
        return replace(self, **left)


def make_ragged(  # noqa: PLR0913  (the groups, and six facts of their run)
    groups: Iterable[Group],
    *,
    number: int,
    token_max_lag: int,
    correctness: Correctness | None,
    newest_version: int = 0,
    functions: Mapping[str, float] | None = None,
    demonstrations: bool = False,
) -> RaggedBatch:
    """Lay the responses of `groups` end to end; the order in which groups are given does not matter.

    Args:
        groups: groups of distinct seqs.
        number: batches trained before this one. Versions of an abandoned lineage may be ahead of it: their lag is 0.
        token_max_lag: older tokens are masked.
        correctness: what makes a response correct; None: rewards are graded.
        newest_version: newest published version; its tokens are fresh if it is the policy before the batch.
        functions: weight of each reward function by its name; None: their single values are left out.
        demonstrations: those of a group are rows behind its responses, never stale; False: they are left out.
    """
    groups = sorted(groups, key=lambda group: group.seq)
    rows = [_rows(group, number, shown=demonstrations) for group in groups]
    responses = [response for row in rows for response in row]
    count = [len(row) for row in rows]
    demonstration = _demonstration(groups, responses) if demonstrations else None
    owner = np.repeat(np.arange(len(groups)), count)
    version = np.concatenate([response.versions() for response in responses])
    lag = np.maximum(number - batch_of(version), 0)
    fresh = (version == newest_version) & (batch_of(version) == number)
    correct = judge(correctness, responses)
    names, source = np.unique([group.source for group in groups], return_inverse=True)
    return RaggedBatch(
        number=number,
        source_names=tuple(str(name) for name in names),
        part_weights=tuple((functions or {}).values()),
        group=owner,
        seq=np.array([group.seq for group in groups], np.int64)[owner],
        index=np.concatenate([np.arange(size) for size in count]),
        reward=np.array([response.reward for response in responses], np.float64),
        correct=None if correct is None else np.array(correct, np.bool_),
        greedy_reward=_greedy_rewards(groups, owner),
        parts=None if functions is None else _parts(responses, list(functions)),
        length=np.array([len(response.tokens) for response in responses], np.int64),
        longest=max(len(response.tokens) for response in responses),
        truncated=np.array([response.finish is Finish.LENGTH for response in responses], np.bool_),
        source=source.astype(np.int64)[owner],
        answer=_answers(responses),
        mask=np.concatenate([response.mask for response in responses]) & (lag <= token_max_lag),
        lag=lag,
        fresh=fresh if demonstration is None else fresh & ~demonstration,
        demonstration=demonstration,
        step_correct=_step_correct(responses),
        logp_rollout=np.concatenate([response.logp_rollout for response in responses]),
        prompt=np.concatenate([group.prompt for group in groups]),
        prompt_length=np.array([len(group.prompt) for group in groups], np.int64),
        tokens=np.concatenate([response.tokens for response in responses]),
        kept=_kept(responses),
        kept_count=_kept_count(responses),
    )


def _rows(group: Group, number: int, *, shown: bool) -> Sequence[Response]:
    """Return the rows of a group: its responses, and its demonstrations if they are to be shown."""
    if not shown:
        return group.responses
    return (*group.responses, *(_row(each, version_of(1, number)) for each in group.demonstrations))


def _row(demonstration: Demonstration, version: int) -> Response:
    """Return a demonstration as a row of a batch: no policy has sampled it, so its log-probabilities are 0."""
    tokens = demonstration.tokens
    return Response(
        tokens=tokens,
        logp_rollout=np.zeros(len(tokens), np.float32),
        mask=np.ones(len(tokens), np.bool_),
        span_start=np.zeros(1, np.int32),
        span_version=np.full(1, version, np.int64),
        finish=Finish.STOP,
        reward=demonstration.reward,
        seed=0,
        reward_parts=demonstration.reward_parts,
        answer=demonstration.answer,
    )


def _demonstration(groups: Sequence[Group], rows: Sequence[Response]) -> Array:
    """Return [S] bool: tokens of the rows that follow the responses of each group."""
    shown = np.concatenate(
        [np.arange(len(group.responses) + len(group.demonstrations)) >= len(group.responses) for group in groups]
    )
    return np.repeat(shown, [len(row.tokens) for row in rows])


def _greedy_rewards(groups: Sequence[Group], owner: Array) -> Array | None:
    rewards = [group.greedy_reward for group in groups]
    return None if None in rewards else np.array(rewards, np.float64)[owner]


def _step_correct(responses: Sequence[Response]) -> Array | None:
    if all(response.steps is None for response in responses):
        return None
    starts = starts_of(np.array([len(response.tokens) for response in responses], np.int64))
    column = np.zeros(sum(len(response.tokens) for response in responses), np.bool_)
    for first, response in zip(starts, responses, strict=True):
        if (steps := response.steps) is not None:
            for start, end in zip(steps.start[steps.correct], steps.end[steps.correct], strict=True):
                column[first + start : first + end] = True
    return column


def _answers(responses: Sequence[Response]) -> Array:
    """Return equal numbers for equal answers, and -1 where there is none: [N]."""
    answers = [response.answer for response in responses]
    numbers = np.unique(answers, return_inverse=True)[1]
    return np.where(np.array(answers) == "", -1, numbers).astype(np.int64)


def _kept(responses: Sequence[Response]) -> Array | None:
    """Return the tokens among which each token was chosen; None: no response has a mask."""
    ids = [mask.ids for response in responses if (mask := response.sampling_mask) is not None]
    return np.concatenate(ids) if ids else None


def _kept_count(responses: Sequence[Response]) -> Array | None:
    """Return their number for each token."""
    if all(response.sampling_mask is None for response in responses):
        return None
    counts = [
        np.zeros(len(response.tokens), np.int32) if (mask := response.sampling_mask) is None else np.diff(mask.start)
        for response in responses
    ]
    return np.concatenate(counts)


def _parts(responses: Sequence[Response], names: Sequence[str]) -> Array:
    values = [[response.reward_parts.get(name, np.nan) for name in names] for response in responses]
    return np.array(values, np.float64).reshape(len(responses), len(names))


def starts_of(lengths: Int64) -> Int64:
    """Return where each row begins when rows of these lengths lie end to end."""
    starts: Int64 = np.cumsum(lengths) - lengths
    return starts


def places_of(lengths: Int64) -> tuple[Int64, Int64]:
    """Return row and place in the row of every element when rows of these lengths lie end to end."""
    row = np.repeat(np.arange(len(lengths)), lengths)
    return row, np.arange(len(row)) - starts_of(lengths)[row]

"""Retired groups: their reasons, and the error that ends a run in which nothing but retirement happens.

Plain state and rules, as in `buffer.py`.
"""

from collections import Counter
from collections.abc import Iterable
from dataclasses import dataclass, field

from isentrope.errors import DataError, InternalError, IsentropeError
from isentrope.learner.intake.outcomes import ALL_CORRECT, NONE_CORRECT, SAME_REWARD
from isentrope.rollout.wire.plain_text import printable
from isentrope.rollout.wire.types import MissingReason

STALE = "stale"
INVALID = "invalid"
TRIES = "tries"
NONFINITE = "nonfinite"
POISON = "poison"
"""Reason of the groups of a plan that has killed the ranks as often as `learner.poison_after` says."""
EARLIER = "earlier"
"""Reason of groups that a learner before this one had retired; why is not known any more."""
OTHER_WEIGHTS = "other weights"
"""Reason of on-policy groups that are made again: they stay in work, and are counted here alone."""
QUARANTINE = "quarantine"
"""Reason of groups that are made again because an actor in quarantine made them; they are counted here alone."""
SURPLUS = "surplus"
"""Reason of groups still missing after the last batch: a restart may find fewer groups retired than before."""

FAILURES = frozenset({*(reason.word for reason in MissingReason), TRIES, INVALID})
"""Reasons for which a group never came, or could not be read; another word of an actor counts as `INVALID`."""

MAX_DETAIL = 500
"""Characters of an actor's text that are kept."""

MAX_NAMED = 3
"""Actors that an error names."""

MAX_BATCHES = 20
"""Batches' worth of groups that may be retired between two trained batches, beside those that may become stale at once
and those that are replaced for their outcome."""

MIN_PASS_BATCHES = 2
"""Least number of failed groups in a row that end a run, in batches' worth, where a pass over the data is shorter."""

_OF_DATA = frozenset({ALL_CORRECT, NONE_CORRECT, SAME_REWARD, *(reason.word for reason in MissingReason)}) - {
    MissingReason.ENGINE.word,
    MissingReason.RECORD.word,
}
"""Reasons that lie in the data or in the reward."""

_FIXES = {
    MissingReason.TOO_LONG.word: "raise model.max_model_len, lower sampling.max_new_tokens, or shorten the prompts",
    MissingReason.REWARD.word: "mend the reward function; the actors' logs say how it failed",
    MissingReason.ENGINE.word: "see the actors' logs: the engine fails its requests",
    MissingReason.RECORD.word: "see the actors' logs: groups are not valid records, or above redis.max_record_bytes",
    INVALID: "see the learner's log: what actors publish does not fit the run",
    QUARANTINE: "see the learner's log, and `isentrope status`: what actors publish does not fit the run",
    TRIES: "see the actors' logs: they die with these groups in work",
    POISON: "see the learner's log, and `isentrope dlq`: the ranks die while they train these groups",
    OTHER_WEIGHTS: "see the actors' logs: on-policy groups come with other weights than the newest",
    STALE: "raise learner.staleness.max_lag or token_max_lag, or lower min_kept",
    ALL_CORRECT: "take harder prompts",
    SAME_REWARD: "take a reward that tells more responses apart, or other prompts",
    NONE_CORRECT: "take easier prompts, or a reward that tells more responses apart",
}


@dataclass(frozen=True, slots=True)
class Retired:
    """One retired group: its seq, the reason as one word, more of it for people, and the actor that it names."""

    seq: int
    reason: str
    detail: str = ""
    actor: str = ""


def detail_of(text: str) -> str:
    """Return a text of an actor as one line for people, not too long."""
    return printable(text[:MAX_DETAIL])


def length_bucket(tokens: int) -> int:
    """Return the least power of two that is not below `tokens`; 0 for 0, a length that is not known."""
    return 1 << (tokens - 1).bit_length() if tokens > 0 else 0


@dataclass(slots=True)
class LengthCounts:
    """Numbers of responses, by a word and by the bucket of their length."""

    counts: dict[str, Counter[int]] = field(default_factory=dict)

    def add(self, word: str, lengths: Iterable[int]) -> None:
        """Count responses of these lengths."""
        self.counts.setdefault(word, Counter()).update(map(length_bucket, lengths))

    def copy(self) -> dict[str, Counter[int]]:
        """Return the present counts."""
        return {word: Counter(lengths) for word, lengths in self.counts.items()}


@dataclass(frozen=True, slots=True)
class RetirementLimits:
    """Numbers of groups in a row whose retirement ends the run."""

    between_batches: int
    """Groups retired, for any reason, or made again since the last trained batch."""
    failed: int
    """Failed groups without one in between that came in whole: a pass over the data, or `MIN_PASS_BATCHES`."""


class Retirements:
    """Counts of what was retired since something was trained."""

    def __init__(self, limits: RetirementLimits) -> None:
        self._limits = limits
        self._since_batch: Counter[str] = Counter()
        self._failed: Counter[str] = Counter()
        self._examples: dict[str, Retired] = {}
        self._actors: dict[str, Counter[str]] = {}  # of all groups since a batch was trained, by reason

    def retired(self, group: Retired) -> None:
        """Count one more retired group."""
        self._since_batch[group.reason] += 1
        self._examples[group.reason] = group
        if group.actor:
            self._actors.setdefault(group.reason, Counter())[group.actor] += 1
        if group.reason in FAILURES:
            self._failed[group.reason] += 1

    def came_in(self) -> None:
        """Record that a group came in that may be trained."""
        self._failed.clear()

    def restart(self) -> None:
        """Count anew: a batch was trained, or what the broker holds was read again."""
        self._failed.clear()
        self._since_batch.clear()
        self._actors.clear()

    def error(self) -> IsentropeError | None:
        """Return the error that ends the run; None: it may go on."""
        if self._failed.total() >= self._limits.failed:
            return self._error(self._failed, "failed")
        if self._since_batch.total() >= self._limits.between_batches:
            return self._error(self._since_batch, "were retired or made again")
        return None

    def _error(self, counts: Counter[str], happened: str) -> IsentropeError:
        (reason, count), *_ = counts.most_common(1)
        example = self._examples[reason]
        of_them = "all" if count == counts.total() else f"{count} of them"
        kind = DataError if reason in _OF_DATA else InternalError
        return kind(
            f"{counts.total()} groups in a row {happened}, and none was trained; reason of {of_them}: {reason}",
            where=(f"group {example.seq}: {example.detail}" if example.detail else f"group {example.seq}")
            + _senders(self._actors.get(reason, Counter())),
            fix=_FIXES.get(reason, ""),
        )


def _senders(counts: Counter[str]) -> str:
    """Return the actors that most groups of a reason came from: where it is one of many, that one is to be mended."""
    named = [f"{detail_of(actor)} ({count})" for actor, count in counts.most_common(MAX_NAMED)]
    others = len(counts) - len(named)
    if others > 0:
        named.append(f"{others} more")
    return f"; those since the last batch are by {', '.join(named)}" if named else ""

"""Alarms: bounds on what the batches of a run measure. Lines of `metrics.jsonl` in, alarms out; no files, no clocks.

A resumed run feeds the lines that it finds to new `Alarms`, so alarms need no state in a checkpoint.
"""

import math
from collections import Counter, deque
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass

from isentrope.errors import AlarmError
from isentrope.learner.config import AlarmsConfig
from isentrope.learner.intake.outcomes import ALL_CORRECT, NONE_CORRECT, SAME_REWARD
from isentrope.learner.intake.retirement import STALE, SURPLUS
from isentrope.learner.measures import AlarmFigures, RaisedAlarm
from isentrope.learner.records import BatchRow

LOGP_GAP: Mapping[str, float] = {"float32": 2e-3, "bfloat16": 5e-2}
"""Default of `logp_gap` by `model.dtype`, nats. Rounding alone makes 1e-6 in float32 and up to 8e-3 in bfloat16 on a
CPU; an engine with wrong weights makes 1e-2 to 3e-1."""

REARM_AFTER = 10
"""Batches within its bound after which an alarm is said again."""

SILENCE = 1e-6
"""Mean absolute advantage up to which a batch has no signal: rounding may leave a little of equal rewards."""

REPLACED = frozenset({STALE, ALL_CORRECT, NONE_CORRECT, SAME_REWARD})
"""Reasons of groups that were generated well and not trained. All other reasons but `UNCOUNTED` are failures."""

UNCOUNTED = frozenset({SURPLUS})
"""Reasons of groups that say nothing of the run's health."""

OTHERS = ""
"""Word for the groups or responses that a share is not about."""


@dataclass(frozen=True, slots=True)
class Alarm:
    """Texts of one alarm, which is named after its key of `[learner.alarms]`."""

    name: str
    measured: str
    """Measurement, with its unit."""
    advice: str
    """The usual cause, and what to do about it."""
    falls: bool = False
    """True if values below the bound are the alarm, instead of those above."""

    def is_beyond(self, value: float, bound: float) -> bool:
        """Return True if the value is an alarm; one that is not a number always is."""
        return not (value >= bound if self.falls else value <= bound)

    def text(self, raised: RaisedAlarm) -> str:
        """Return one sentence: what was measured, and the bound with its key."""
        side = "below" if self.falls else "above"
        return f"{self.measured} is {raised.value:.3g}, {side} learner.alarms.{self.name} = {raised.bound:g}"


_TOO_FAR = (
    "The updates of a batch move the policy too far: lower learner.learning_rate or learner.updates_per_batch, or set "
    "a clip; without one, also learner.staleness.max_lag = 0"
)

ALARMS: tuple[Alarm, ...] = (
    Alarm(
        "logp_gap",
        "the mean gap between the log-probabilities of engine and learner, in nats,",
        "The engine samples from other numbers than are trained: weights that it did not load, or a model that it "
        "computes differently. Compare both on one prompt before training goes on",
    ),
    Alarm(
        "ratio_max",
        "the largest ratio",
        _TOO_FAR,
    ),
    Alarm(
        "kl_old",
        "the divergence within a batch, in nats per token,",
        _TOO_FAR,
    ),
    Alarm(
        "entropy_share",
        "entropy as a share of the first batch's",
        "The policy explores no more: raise clip.high, add an entropy term, or choose a method that holds entropy "
        "(`isentrope methods`), and start from a checkpoint before the fall",
        falls=True,
    ),
    Alarm(
        "no_signal",
        "the number of batches in a row without an advantage",
        "All responses to a prompt have the same reward: the task is too hard or too easy for the model, or the reward "
        "never finds an answer. Look at samples.jsonl, and try easier prompts or a graded reward",
    ),
    Alarm(
        "failed",
        "the share of groups or responses that fail",
        "What fails is not trained, and what is left is another data set: the logs of the actors have the errors",
    ),
    Alarm(
        "retired",
        "the share of groups that are replaced",
        "Most of what is generated is not trained: prompts are too hard or too easy for the model or, if they are "
        "stale, orders go too far ahead of the learner (learner.staleness.max_lag)",
    ),
    Alarm(
        "truncated",
        "the share of truncated responses",
        "Answers that are cut off mostly count as wrong: raise sampling.max_new_tokens, or see in samples.jsonl "
        "whether the model fails to end",
    ),
    Alarm(
        "at_bound",
        "the number of batches in a row with a controller at its bound",
        "It cannot reach its target: widen its `low` and `high`, or set a target nearer to what is measured",
    ),
    Alarm(
        "idle",
        "the number of batches in a row in which a controller did nothing",
        "Entropy is on the side of its target where it rests: set a target nearer to what is measured",
    ),
)


def bounds_in_force(config: AlarmsConfig, dtype: str) -> dict[str, float]:
    """Return the bound of each alarm that is on, by name."""
    given = config.model_dump(include={alarm.name for alarm in ALARMS})
    if config.logp_gap is None:
        given["logp_gap"] = LOGP_GAP[dtype]
    return {name: float(bound) for name, bound in given.items() if bound}


@dataclass(frozen=True, slots=True)
class Verdict:
    """The alarms of one batch."""

    raised: Mapping[str, RaisedAlarm]
    """Those that are on, by name."""
    said: tuple[str, ...]
    """Text of each one that was off for `REARM_AFTER` batches."""
    error: AlarmError | None
    """Error that ends the run if an alarm is to stop it; None: nothing is said."""


class Alarms:
    """The alarms of one run, from its first batch on."""

    def __init__(self, bounds: Mapping[str, float], window: int) -> None:
        """Start before the first batch; `window` as in `[learner.alarms]`."""
        self.bounds = bounds
        self._entropy = 0.0  # of the first batch
        self._silent = 0
        self._stuck: Counter[str] = Counter()
        self._idle: Counter[str] = Counter()
        self._recent = deque[BatchRow](maxlen=window)
        self._last_on: dict[str, int] = {}

    @property
    def memory(self) -> int:
        """Number of last batches that decide, beside the first one, whether the next is an alarm."""
        in_a_row = [int(self.bounds.get(name, 0)) for name in ("no_signal", "at_bound", "idle")]
        return REARM_AFTER + 1 + max(self._recent.maxlen or 0, *in_a_row)

    def add(self, row: BatchRow) -> Verdict:
        """Return the alarms of the next batch."""
        measured = self._measure(row)
        on = {
            alarm: RaisedAlarm(value=measured[alarm.name], bound=self.bounds[alarm.name])
            for alarm in ALARMS
            if alarm.name in measured and alarm.name in self.bounds
            if alarm.is_beyond(measured[alarm.name], self.bounds[alarm.name])
        }
        new = [alarm for alarm in on if row.batch - self._last_on.get(alarm.name, -REARM_AFTER) > REARM_AFTER]
        self._last_on |= {alarm.name: row.batch for alarm in on}
        texts = [f"{alarm.text(on[alarm])}{self._details(alarm)}" for alarm in new]
        return Verdict(
            raised={alarm.name: value for alarm, value in on.items()},
            said=tuple(
                f"alarm in batch {row.batch}: {text}. {alarm.advice}" for alarm, text in zip(new, texts, strict=True)
            ),
            error=_error(row.batch, new, texts) if new else None,
        )

    def _measure(self, row: BatchRow) -> dict[str, float]:
        """Return what there is to compare with the bounds, by the alarm's name."""
        measures = row.objective
        self._entropy = self._entropy or row.entropy
        self._silent = self._silent + 1 if (measures.advantage_abs or 0.0) <= SILENCE else 0
        self._stuck = Counter({kind: self._stuck[kind] + 1 for kind in measures.control_at_bound or ()})
        self._idle = Counter({kind: self._idle[kind] + 1 for kind in measures.control_idle or ()})
        self._recent.append(row)
        measured = {
            "logp_gap": measures.logp_gap_fresh,
            "ratio_max": row.ratio_max,
            "kl_old": measures.kl_old,
            "entropy_share": row.entropy / self._entropy if self._entropy else None,
            "no_signal": float(self._silent),
            "failed": max(_share(self._failed_responses()), _share(self._groups(failed=True))),
            "retired": _share(self._groups(failed=False)),
            "truncated": row.truncated,
            "at_bound": float(max(self._stuck.values(), default=0)),
            "idle": float(max(self._idle.values(), default=0)),
        }
        return {name: value for name, value in measured.items() if value is not None}

    def _groups(self, *, failed: bool) -> Counter[str]:
        """Return the groups of the window that failed, or were replaced, by reason, and all others as `OTHERS`."""
        groups = Counter({OTHERS: sum(row.groups for row in self._recent)})
        for row in self._recent:
            for reason, count in row.untrained.groups.items():
                if reason not in UNCOUNTED:
                    groups[reason if (reason not in REPLACED) == failed else OTHERS] += count
        return groups

    def _failed_responses(self) -> Counter[str]:
        """Return the responses of the window that failed, by kind, and those of the groups that came as `OTHERS`."""
        responses = Counter({OTHERS: sum(row.responses for row in self._recent)})
        for row in self._recent:
            responses[OTHERS] += sum(sum(lengths.values()) for lengths in row.untrained.retired.values())
            responses.update({kind: sum(lengths.values()) for kind, lengths in row.untrained.failed.items()})
        return responses

    def _details(self, alarm: Alarm) -> str:
        """Return which reasons or controllers an alarm is about."""
        match alarm.name:
            case "failed":
                responses, groups = self._failed_responses(), self._groups(failed=True)
                more = _share(groups) > _share(responses)
                return _listed(groups, "groups") if more else _listed(responses, "responses")
            case "retired":
                return _listed(self._groups(failed=False), "groups")
            case "at_bound" | "idle":
                counted = self._stuck if alarm.name == "at_bound" else self._idle
                longest = [kind for kind, count in counted.items() if count > self.bounds[alarm.name]]
                return f" ({', '.join(sorted(longest))})"
            case _:
                return ""


def _share(counts: Counter[str]) -> float:
    """Return the share of all but `OTHERS`; 0 if there is nothing."""
    return 1 - counts[OTHERS] / counts.total() if counts.total() else 0.0


def _listed(counts: Counter[str], things: str) -> str:
    reasons = [f"{count} {reason}" for reason, count in counts.most_common() if reason != OTHERS]
    return f" ({', '.join(reasons)} of {counts.total()} {things})"


def figures(rows: Iterable[BatchRow]) -> dict[str, AlarmFigures]:
    """Return what a run's lines say of each alarm that was on, by name, in the order of their first batch."""
    found: dict[str, AlarmFigures] = {}
    for row in rows:
        for name, raised in (row.alarms or {}).items():
            before = found.get(name)
            worst = raised if before is None else _worse(name, before, raised)
            found[name] = AlarmFigures(
                first=row.batch if before is None else before.first,
                last=row.batch,
                batches=1 if before is None else before.batches + 1,
                worst=worst.value,
                bound=worst.bound,
            )
    return found


def sentences(found: Mapping[str, AlarmFigures]) -> list[str]:
    """Return one sentence about each alarm of a run."""
    return [
        f"Alarm in {each.batches} {'batch' if each.batches == 1 else 'batches'}, first in batch {each.first}: at worst "
        f"{_alarm(name).text(RaisedAlarm(value=each.worst, bound=each.bound))}. {_alarm(name).advice}."
        for name, each in found.items()
    ]


def _worse(name: str, before: AlarmFigures, raised: RaisedAlarm) -> RaisedAlarm:
    """Return the value farther beyond its bound; the bound may have been changed in between."""
    old = RaisedAlarm(value=before.worst, bound=before.bound)
    if _alarm(name).falls:
        return min(old, raised, key=lambda each: each.value)
    return max(old, raised, key=lambda each: math.inf if math.isnan(each.value) else each.value)


def _alarm(name: str) -> Alarm:
    """Return the alarm of a name; one that this version does not know says its name."""
    return next((alarm for alarm in ALARMS if alarm.name == name), Alarm(name, name, "See its key"))


def _error(batch: int, alarms: Sequence[Alarm], texts: Sequence[str]) -> AlarmError:
    advice = ". ".join(dict.fromkeys(alarm.advice for alarm in alarms))
    off = " and ".join(f"learner.alarms.{alarm.name} = 0" for alarm in alarms)
    return AlarmError(
        "; ".join(texts),
        where=f"batch {batch}, after which a checkpoint was written",
        fix=f"{advice}. The same command goes on from there, and an alarm that stays on does not end the run again; "
        f'{off} turns it off, and learner.alarms.action = "warn" lets alarms pass',
    )

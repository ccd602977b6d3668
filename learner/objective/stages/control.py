"""Controllers: values that follow a measurement, one step after each optimizer update or each batch.

A controller is a pure function from its state and what was measured over the whole update, or over all updates of a
batch (`every`), to its next state. `state` maps names to numbers and is what a checkpoint holds; "value" is what it
sets from then on, `initial` before the first step, "target" its set point. An update that was skipped takes no step.
Entropies and divergences are means per token, in nats; `progress` is the share of the run that is done, 0 to 1.

A target is a number of nats, the two ends of a line over progress, or `{ initial = ... }` with either of them as a
share of what the first step measures. `of` is the key that is set, `clip.high` or `tokens.top_entropy.keep`; a stage
stands for its weight, and `learning_rate` for a factor on `learner.learning_rate`. A key that only the update reads has
a new value in the next update; one that selections and advantages of a whole batch read, in the next batch.
"""

from collections.abc import Iterable, Mapping
from typing import Literal

from isentrope.learner.objective.schema import (
    Count,
    Finite,
    Fraction,
    Function,
    Line,
    NonNegative,
    Positive,
    Stage,
    Target,
)

ControllerState = Mapping[str, float]
Every = Literal["update", "batch"]
Effect = Literal["raises", "lowers"]

EFFECTS: Mapping[str, Effect] = {
    "aux.high_prob_push": "lowers",
    "tokens.positive_weight": "lowers",
    "entropy": "raises",
    "clip.high": "raises",
}
"""Effect of more of a key on entropy."""


def at_bound(stages: Iterable[Stage], state: Mapping[str, ControllerState]) -> tuple[str, ...]:
    """Return the controllers whose value is at a bound beyond which they would go on, by kind.

    A coefficient of 0 and a weight of 1 act on nothing: that is where a controller rests, and not such a bound.
    """

    def bounds(stage: Stage) -> list[object]:
        if stage.runs(positive_weight):
            return [0.0]
        return [stage.params[name] for name in ("low", "high") if stage.params.get(name)]

    return tuple(stage.kind.name for stage in stages if state[stage.kind.name].get("value") in bounds(stage))


def idle(stages: Iterable[Stage], state: Mapping[str, ControllerState]) -> tuple[str, ...]:
    """Return the controllers whose value does nothing, by kind."""
    at_rest: dict[Function, float] = {entropy_step: 0.0, positive_weight: 1.0}
    return tuple(
        stage.kind.name
        for stage in stages
        for function, value in at_rest.items()
        if stage.runs(function) and state[stage.kind.name].get("value") == value
    )


def entropy_step(
    state: ControllerState,
    sampled_entropy: float,
    progress: float = 0.0,
    *,
    target: Target,
    delta: Positive = 1e-4,
    low: NonNegative = 0.0,
    high: NonNegative = 0.005,
    initial: NonNegative = 0.0,
    inclusive: bool = False,
    every: Every = "update",
    of: Literal["entropy"] = "entropy",
) -> dict[str, float]:
    """The entropy bonus goes up by `delta` while entropy is below `target`, else down, and acts only while it is below.

    "Skywork Open Reasoner 1" by He et al. (https://arxiv.org/abs/2505.22312); measures -mean log p_old of the sampled
    tokens, as their code does. `inclusive` counts an entropy equal to the target as below, as trl does.

    Args:
        target: nats, both ends of a line over progress, or `{ initial = 0.85 }`, a share of what is measured first.
            Too high never lets the policy settle; too low acts when exploration is gone.
        delta: step of the coefficient. Too high overshoots; too low follows late.
        low: least coefficient.
        high: largest coefficient. Too high makes the policy write noise.
        initial: coefficient before the first update.
        inclusive: an entropy equal to the target counts as below.
        every: whether it steps after each update, or after each batch on the mean over its updates, as their code does.
        of: what is set.
    """
    points = set_point(state, sampled_entropy, progress, target)
    below = sampled_entropy <= points["target"] if inclusive else sampled_entropy < points["target"]
    coef = state.get("coef", initial)
    coef = min(max(coef + delta if below else coef - delta, low), high)
    return {"coef": coef, "value": coef if below else 0.0, **points}


def entropy_pi(
    state: ControllerState,
    entropy: float,
    progress: float = 0.0,
    *,
    target: Target,
    kp: NonNegative = 1.0,
    ki: NonNegative = 0.01,
    low: Finite = -1.0,
    high: Finite = 1.0,
    integral_limit: NonNegative = 1.0,
    hold_at_bound: bool = True,
    initial: Finite = 0.0,
    every: Every = "update",
    of: str = "aux.high_prob_push",
    effect: Effect | None = None,
) -> dict[str, float]:
    """Proportional-integral control: clip(initial + kp e + ki S, low, high), S the sum of the errors before e.

    e = target - H for a key that raises entropy, such as the `entropy` bonus; H - target for one that lowers it, such
    as `aux.high_prob_push`. "EntroPIC" by Yang et al. (https://arxiv.org/abs/2511.15248). Against windup, ours:
    |ki S| <= `integral_limit`, and with `hold_at_bound` S stands still while the value is at the bound that e pushes
    it to.

    Args:
        target: nats, both ends of a line over progress, or `{ initial = 0.85 }`, a share of what is measured first.
            Too high never lets the policy settle; too low gives up exploration.
        kp: answer to the present error, per nat. Too high makes entropy oscillate.
        ki: answer to the sum of errors, per nat. Too high overshoots; 0 leaves a lasting error.
        low: least value.
        high: largest value.
        integral_limit: largest part of the value that the sum makes. Too high recovers late from a long error.
        hold_at_bound: keep the sum as it is while the value is at its bound.
        initial: value before the first step, and without an error.
        every: whether it steps after each update, or after each batch on the mean over its updates.
        of: what is set: any key of a stage that is a number.
        effect: what more of it does to entropy; unset: as known of `entropy`, `clip.high`, `aux.high_prob_push` and
            `tokens.positive_weight`, other keys must say it. The wrong one drives entropy away from its target.
    """
    points = set_point(state, entropy, progress, target)
    sign = 1.0 if (effect or EFFECTS.get(of)) == "raises" else -1.0
    error = sign * (points["target"] - entropy)
    integral = state.get("integral", 0.0)
    wanted = initial + kp * error + ki * integral
    value = min(max(wanted, low), high)
    held = hold_at_bound and ((wanted > high and error > 0) or (wanted < low and error < 0))
    if not held:
        integral += error
    if ki > 0:
        integral = min(max(integral, -integral_limit / ki), integral_limit / ki)
    return {"integral": integral, "value": value, **points}


def positive_weight(
    state: ControllerState,
    entropy: float,
    progress: float = 0.0,
    *,
    target: Target,
    delta: Positive = 0.05,
    initial: Fraction = 1.0,
    every: Every = "update",
    of: Literal["tokens.positive_weight"] = "tokens.positive_weight",
) -> dict[str, float]:
    """The weight of positive advantages goes down by `delta` while entropy is below `target`, else up, within [0, 1].

    "Revisiting Entropy in Reinforcement Learning for Large Reasoning Models" (https://arxiv.org/abs/2511.05993), the
    entropy-guided schedule.

    Args:
        target: nats, both ends of a line over progress, or `{ initial = 0.85 }`, a share of what is measured first.
            Too high unlearns what was right; too low acts when exploration is gone.
        delta: step of the weight. Too high overshoots; too low follows late.
        initial: weight before the first step.
        every: whether it steps after each update, or after each batch on the mean over its updates.
        of: what is set.
    """
    points = set_point(state, entropy, progress, target)
    value = state.get("value", initial)
    value = value - delta if entropy < points["target"] else value + delta
    return {"value": min(max(value, 0.0), 1.0), **points}


def positive_weight_by_stage(
    state: ControllerState,
    progress: float,
    *,
    start: Fraction = 0.5,
    initial: Fraction = 0.0,
    of: Literal["tokens.positive_weight"] = "tokens.positive_weight",
) -> dict[str, float]:
    """`initial` for the `start` share of the run, then linearly to 1 at its end. https://arxiv.org/abs/2511.05993.

    Args:
        start: share of the run that is trained at `initial`.
        initial: weight up to `start`.
        of: what is set.
    """
    after = (progress - start) / (1 - start) if start < 1 else 0.0
    return {"value": initial + (1 - initial) * min(max(after, 0.0), 1.0)}


def positive_weight_by_epoch(
    state: ControllerState,
    progress: float,
    *,
    epochs: Count,
    initial: Fraction = 0.0,
    of: Literal["tokens.positive_weight"] = "tokens.positive_weight",
) -> dict[str, float]:
    """(e - 1) / (epochs - 1) in the e-th of `epochs` equal parts of the run. https://arxiv.org/abs/2511.05993.

    Args:
        epochs: parts of the run.
        initial: weight before the first update.
        of: what is set.
    """
    epoch = min(int(progress * epochs), epochs - 1)
    return {"value": epoch / max(epochs - 1, 1)}


def adaptive_kl(
    state: ControllerState,
    kl: float,
    responses: float,
    *,
    target: Positive,
    horizon: Positive = 10000.0,
    initial: Positive = 1e-3,
    of: Literal["kl.ref", "reward.kl_penalty"] = "kl.ref",
) -> dict[str, float]:
    """The coefficient follows the measured divergence: times 1 + clip(kl / target - 1, -0.2, 0.2) responses / horizon.

    Ziegler et al. (https://arxiv.org/abs/1909.08593), section 2.2.

    Args:
        target: divergence that is aimed at, in nats per token. Too low holds the policy where it began; too high lets
            it drift.
        horizon: responses over which the coefficient follows. Too low oscillates; too high follows late.
        initial: coefficient before the first update.
        of: what is set.
    """
    error = min(max(kl / target - 1, -0.2), 0.2)
    return {"value": state.get("value", initial) * (1 + error * responses / horizon)}


def set_point(state: ControllerState, measured: float, progress: float, target: Target) -> dict[str, float]:
    """Return the part of a state that is the set point: "target" and, of a share, what was measured "first"."""
    if isinstance(target, dict):
        first = state.get("first", measured)
        return {"target": first * _on_line(target["initial"], progress), "first": first}
    return {"target": _on_line(target, progress)}


def _on_line(value: float | Line, progress: float) -> float:
    start, end = value if isinstance(value, tuple) else (value, value)
    return start + (end - start) * progress

"""Controllers: coefficients that follow a measurement, one step after each optimizer update.

A controller is a pure function from its state and what was measured over the whole update to its next state. `state`
maps names to numbers and is what a checkpoint holds; "value" is the coefficient for the next update, `initial` before
the first. An update that was skipped takes no step. Entropies and divergences are means per token, in nats; `progress`
is the share of the run that is done, 0 to 1.
"""

from collections.abc import Mapping
from typing import Literal

from isentrope.learner.objective.schema import Count, Finite, Fraction, NonNegative, Positive

ControllerState = Mapping[str, float]


def limits(function: object, keys: Mapping[str, object]) -> tuple[object, ...]:
    """Return the values at which a controller would go on and cannot.

    A coefficient of 0 and a weight of 1 act on nothing: that is where a controller rests, and not such a value.
    """
    if function is positive_weight:
        return (0.0,)
    return tuple(keys[name] for name in ("low", "high") if keys.get(name))


def entropy_step(
    state: ControllerState,
    sampled_entropy: float,
    *,
    target: NonNegative,
    delta: Positive = 1e-4,
    low: NonNegative = 0.0,
    high: NonNegative = 0.005,
    initial: NonNegative = 0.0,
    inclusive: bool = False,
    of: Literal["entropy"] = "entropy",
) -> dict[str, float]:
    """The entropy bonus goes up by `delta` while entropy is below `target`, else down, and acts only while it is below.

    "Skywork Open Reasoner 1" by He et al. (https://arxiv.org/abs/2505.22312); measures -mean log p_old of the sampled
    tokens, as their code does. `inclusive` counts an entropy equal to the target as below, as trl does.

    Args:
        target: nats per token. Too high never lets the policy settle; too low acts when exploration is gone.
        delta: step of the coefficient at each update. Too high overshoots; too low follows late.
        low: least coefficient.
        high: largest coefficient. Too high makes the policy write noise.
        initial: coefficient before the first update.
        inclusive: an entropy equal to the target counts as below.
        of: what is set.
    """
    below = sampled_entropy <= target if inclusive else sampled_entropy < target
    coef = state.get("coef", initial)
    coef = min(max(coef + delta if below else coef - delta, low), high)
    return {"coef": coef, "value": coef if below else 0.0}


def entropy_pi(
    state: ControllerState,
    entropy: float,
    *,
    target: NonNegative,
    kp: NonNegative = 1.0,
    ki: NonNegative = 0.01,
    low: Finite = -1.0,
    high: Finite = 1.0,
    integral_limit: NonNegative = 1.0,
    initial: Finite = 0.0,
    of: Literal["aux.high_prob_push", "entropy"] = "aux.high_prob_push",
) -> dict[str, float]:
    """Proportional-integral control: clip(kp e + ki S, low, high), S the sum of the errors before e.

    e = H - target for `aux.high_prob_push`, whose positive coefficient lowers entropy; target - H for the `entropy`
    bonus, which raises it. "EntroPIC" by Yang et al. (https://arxiv.org/abs/2511.15248); ours: |ki S| <=
    `integral_limit`, so that the integral does not wind up while the output is at its bound.

    Args:
        target: nats per token that entropy is held at. Too high never lets the policy settle; too low gives up
            exploration.
        kp: answer to the present error, per nat. Too high makes entropy oscillate.
        ki: answer to the sum of errors, per nat. Too high overshoots; 0 leaves a lasting error.
        low: least coefficient.
        high: largest coefficient.
        integral_limit: largest part of the coefficient that the sum makes. Too high recovers late from a long error.
        initial: coefficient before the first update.
        of: what is set.
    """
    error = entropy - target if of == "aux.high_prob_push" else target - entropy
    integral = state.get("integral", 0.0)
    value = min(max(kp * error + ki * integral, low), high)
    integral += error
    if ki > 0:
        integral = min(max(integral, -integral_limit / ki), integral_limit / ki)
    return {"integral": integral, "value": value}


def positive_weight(
    state: ControllerState,
    entropy: float,
    *,
    target: NonNegative,
    delta: Positive = 0.05,
    initial: Fraction = 1.0,
    of: Literal["tokens.positive_weight"] = "tokens.positive_weight",
) -> dict[str, float]:
    """The weight of positive advantages goes down by `delta` while entropy is below `target`, else up, within [0, 1].

    "Revisiting Entropy in Reinforcement Learning for Large Reasoning Models" (https://arxiv.org/abs/2511.05993), the
    entropy-guided schedule.

    Args:
        target: nats per token below which the weight falls. Too high unlearns what was right; too low acts when
            exploration is gone.
        delta: step of the weight at each update. Too high overshoots; too low follows late.
        initial: weight before the first update.
        of: what is set.
    """
    value = state.get("value", initial)
    return {"value": min(max(value - delta if entropy < target else value + delta, 0.0), 1.0)}


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

"""Measures of a batch besides its headlines: parts of a line of `metrics.jsonl`.

The docstring below a key states its meaning and unit; `Measures.PATTERNS` does for keys named after the stages of a
run.
"""

from collections.abc import Mapping
from typing import ClassVar

from pydantic import ConfigDict

from isentrope.learner.json_files import JsonRecord


class EntropyHistogram(JsonRecord):
    """Entropies of the trained tokens of a batch, counted in bins."""

    edges: tuple[float, ...]
    """Edges of the bins in nats; one more than counts."""
    counts: tuple[int, ...]
    """Tokens in each bin; the outer bins hold what lies beyond their edges too."""


class FunctionReward(JsonRecord):
    """Values of one reward function, or of a component of one, over the responses to which it applied."""

    mean: float | None = None
    """Mean value, before the function's weight; absent if it applied to no response."""
    std: float | None = None
    """Standard deviation of the value over responses; absent as the mean."""
    missing: float
    """Share of the responses to which it did not apply: it returned None."""


class EntropyLaw(JsonRecord):
    """The line R = -a exp(H) + b through entropy H and reward R of every batch since the reference was last refreshed.

    R is the mean reward as the reward functions gave it, graded or not; where groups are replaced for their outcome,
    that of all responses that were drawn. The interval holds the ceiling with 95 % confidence if residuals are
    independent and normal, which successive batches are not quite.
    """

    a: float
    """Reward that a unit of exp(entropy) costs."""
    b: float
    """Reward of the line where exp(entropy) is 0, which no policy reaches."""
    ceiling: float
    """Reward of the line at entropy 0: `b` - `a`."""
    ceiling_low: float
    """Lower end of the ceiling's 95 % interval."""
    ceiling_high: float
    """Upper end of the ceiling's 95 % interval."""
    r2: float
    """Share of the reward's variance that the line explains."""
    rmse: float
    """Root mean square of what the line leaves, in units of reward."""
    points: int
    """Batches that were fitted."""


class Untrained(JsonRecord):
    """Responses that were asked for and did not train, since the line before, or since a resumed learner began; what it
    reads again of its predecessor is in no line.

    Lengths are counted in powers of two: the key is the least one that is not below the number of tokens; 0: not known.
    """

    groups: dict[str, int]
    """Groups that were retired, by reason."""
    failed: dict[str, dict[int, int]]
    """Responses that failed, in trained groups and in retired ones, by kind (`engine`, `reward`, `environment`,
    `record`, `too_long`) and length."""
    retired: dict[str, dict[int, int]]
    """Responses of groups that came in and were retired, by the reason of the group and length."""
    masked: dict[int, int]
    """Responses of the batch with tokens that were too old to be trained, by length."""
    filtered: dict[int, int]
    """Responses of the batch that filters removed, by length."""


class BatchTime(JsonRecord):
    """Time at which a batch was trained, and the learner's time since the line before, by activity."""

    at: float
    """Time at which the line was written, seconds of Unix time."""
    seconds_total: float
    """Seconds since this learner began."""
    wait_s: float
    """Seconds in which groups were waited for."""
    stats_s: float
    """Seconds of the statistics before the first update."""
    update_s: float
    """Seconds of the updates."""
    publish_s: float
    """Seconds in which training stood for a version: its copy, the version before if that was still being written, and
    the files and the barrier of on-policy mode."""
    evaluate_s: float
    """Seconds of an evaluation on held-out prompts."""
    checkpoint_s: float
    """Seconds in which a checkpoint was written."""
    tokens_per_second: float
    """Trained tokens of the batch by the seconds since the line before."""


class ServedPolicy(JsonRecord):
    """Proof that actors serve the policy that was published, by the last heartbeats of those that serve."""

    version: int
    """Newest version that any of them serves with proof."""
    tensors: int
    """Its tensors; all had the bits of the learner's memory in the engine."""
    gap_mean: float | None = None
    """Mean absolute difference between engine and learner on the log-probabilities of the version's canary, nats, the
    largest of all actors that serve it; absent if no engine can compute it."""
    gap_max: float | None = None
    """Largest such difference of these actors, nats."""
    seconds: float
    """Time in which the engine computed the canary and served nothing, the longest of these actors."""
    refused: int
    """Loads of a version that failed or were refused so far, of all actors that the broker still lists. An actor that
    has left, or has ended because no load succeeded, is not among them."""


class BatchProcess(JsonRecord):
    """Values that depend on the processes and their speed; equal runs may differ in them."""

    ready_groups: int
    """Complete groups that waited for training when the batch was done."""
    idle_s: float
    """Seconds that this learner has waited for batches so far."""
    reward_drawn: float | None = None
    """Mean reward of this batch and of all groups that were replaced for their outcome since the one before; absent
    without such a filter."""
    pass_rate_drawn: float | None = None
    """Pass rate of the same responses; absent without such a filter, and where rewards are graded."""
    actors: int
    """Rollout actors that generate."""
    served: ServedPolicy | None = None
    """Proof that they serve the policy that was published; absent while none serves."""
    ranks: int | None = None
    """Learner ranks that trained the batch; absent in runs of older versions."""


class RaisedAlarm(JsonRecord):
    """A measurement of one batch that is beyond its bound."""

    value: float
    """Value that was measured."""
    bound: float
    """Bound in force, a key of `[learner.alarms]`."""


class AlarmFigures(JsonRecord):
    """One alarm over a whole run."""

    first: int
    """First batch in alarm."""
    last: int
    """Last batch in alarm."""
    batches: int
    """Batches in alarm."""
    worst: float
    """Value farthest beyond its bound."""
    bound: float
    """Bound in force when that was measured."""


class Measures(JsonRecord):
    """Measures of the objective's stages and monitors beyond the headlines of a line.

    A key is absent where the objective has no such stage, or where nothing was left to measure. Means are per trained
    token; those of updates are of updates that were applied.
    """

    model_config = ConfigDict(extra="allow")

    PATTERNS: ClassVar[Mapping[str, str]] = {
        "kept_*": "Share of the tokens to which the token, response or correction stage of this kind gives a weight.",
        "loss_kl_*": "Part of the loss that this divergence makes; numbered as in `learner.objective.kl`.",
        "loss_aux_*": "Part of the loss that the auxiliary term of this kind makes.",
    }

    groups_same_reward: float
    """Share of the groups whose responses all have the same reward, before any filter."""
    groups_all_correct: float | None = None
    """Share of the groups whose responses were all correct, before any filter; absent where rewards are graded."""
    groups_all_wrong: float | None = None
    """Share of the groups whose responses were all wrong, before any filter; absent where rewards are graded."""
    kept_policy: float
    """Share of the trained tokens that filters, selections and corrections left in the policy term."""
    importance_mean: float
    """Mean ratio of the learner's probability of a token to that of the engine that sampled it; 1 if they agree."""
    importance_max: float
    """Largest ratio of the learner's probability of a token to that of the engine that sampled it."""
    importance_effective: float
    """Effective share of the tokens under these ratios w: (sum w)^2 / (tokens sum w^2)."""
    logp_gap_fresh: float | None = None
    """Mean absolute difference between the log-probabilities of learner and engine over tokens of the newest version,
    nats; absent if there is none."""
    kl_rollout: float
    """Divergence of the learner's policy from the engine's in nats per token, k3 estimate; 0 if they agree."""
    kl_rollout_k1: float
    """Mean of log-probability by the engine minus by the learner, nats per token (k1 estimate)."""
    drift_quantiles: tuple[float, ...]
    """Quantiles 0.5, 0.9 and 0.99 over responses of the mean log-probability by the engine minus by the learner,
    nats."""
    kl_ref: float | None = None
    """Mean of log-probability by the policy minus by the reference model, nats per token, during the updates."""
    kl_ref_k3: float | None = None
    """Divergence from the reference model in nats per token before the first update, k3 estimate."""
    entropy_by_position: tuple[float, ...] | None = None
    """Mean entropy in nats in each tenth of a response."""
    entropy_by_source: dict[str, float] | None = None
    """Mean entropy in nats, by data set."""
    reward_by_source: dict[str, float] | None = None
    """Mean reward of a response, by data set."""
    pass_rate_by_source: dict[str, float] | None = None
    """Share of the responses that are correct by `data.correct`, by data set; absent where rewards are graded."""
    entropy_policy: float | None = None
    """Mean entropy in nats of the tokens that are left in the policy term."""
    entropy_budget: dict[str, float] | None = None
    """Predicted change of the mean entropy by a step of size 1 on the policy term, to first order, nats, by the sign of
    a token's advantage and by whether its probability is above one half: `positive_likely`, `positive_rare`,
    `negative_likely`, `negative_rare`."""
    entropy_budget_by_source: dict[str, float] | None = None
    """The same change by data set."""
    entropy_change: float | None = None
    """Measured mean change of entropy by the updates of the batch, at the trained tokens of at most 64 of its own
    responses, nats; absent but every `learner.attribution_every` batches."""
    reward_shaped: float | None = None
    """Mean reward after shaping, of the responses that filters kept."""
    advantage_abs: float | None = None
    """Mean absolute advantage per token, of the responses that filters kept."""
    covariance: float | None = None
    """Covariance of advantage and log-probability over tokens, which drives the change of entropy."""
    clip_dual: float | None = None
    """Share of tokens with a negative advantage and a ratio above 1 that the clip has cut off."""
    selected: float | None = None
    """Share of the tokens whose weight in the policy term was not 0 during the updates."""
    kl_old: float | None = None
    """Divergence in nats per token between the policy during the updates and the one before them, k3 estimate."""
    advantage_positive: float | None = None
    """Mean over tokens of the positive part of the advantage times the token's probability."""
    advantage_negative: float | None = None
    """Mean over tokens of the negative part of the advantage times the token's probability."""
    effective_sample: float | None = None
    """Effective share of the tokens under the weights w of the policy term: (sum w)^2 / (tokens sum w^2)."""
    demonstrations: float | None = None
    """Demonstrations in the batch. All other measures but the losses are of sampled responses alone. Absent where the
    method has no demonstrations."""
    demonstration_share: float | None = None
    """Share of the trained tokens that are of demonstrations; absent as above."""
    demonstration_nll: float | None = None
    """Mean negative log-probability of their tokens before the first update, nats; absent without any in the batch."""
    demonstration_reward: float | None = None
    """Mean reward of the demonstrations; absent without any in the batch."""
    loss_policy: float | None = None
    """Part of the loss that the policy term makes, mean of the updates."""
    loss_entropy: float | None = None
    """Part of the loss that the entropy term makes, mean of the updates; 0 without one."""
    loss_value: float | None = None
    """Loss of the critic, mean of its updates; absent without one."""
    critic_grad_norm: float | None = None
    """Norm of the critic's gradient before clipping, mean of its updates; absent without a critic."""
    value_mean: float | None = None
    """Mean value that the critic gave to a token before the first update, in units of reward; absent without one."""
    return_mean: float | None = None
    """Mean discounted reward that came after a token, in units of reward; absent without a critic."""
    explained_variance: float | None = None
    """Share of the variance of these rewards over tokens that the values explain: 1 is exact, 0 is as good as a
    constant; absent without a critic, and where all of them are equal."""
    control: dict[str, float] | None = None
    """Value that each controller sets, by kind."""
    control_target: dict[str, float] | None = None
    """Set point of each controller that has one, by kind, in nats."""
    control_at_bound: tuple[str, ...] | None = None
    """Controllers whose value is at a bound beyond which they would go on; absent if none is."""
    control_idle: tuple[str, ...] | None = None
    """Controllers whose value does nothing; absent if none is."""
    entropy_law: EntropyLaw | None = None
    """The entropy law so far; absent in the first batches, which are too few for a line."""

"""Configuration of the learner; imports nothing heavy. The objective's own tables are in `objective/schema.py`."""

from typing import Annotated, Literal

from pydantic import Field

from isentrope.rollout.config import Section
from isentrope.rollout.units import (
    MAX_NUMBER,
    Batches,
    BatchesOrNone,
    Bound,
    Copies,
    Limits,
    Nats,
    Passes,
    Processes,
    Prompts,
    Rate,
    Seconds,
    Share,
    TimesOrNone,
    Tokens,
    Updates,
    UpdatesOrNone,
)

Decay = Annotated[float, Field(ge=0, lt=1)]


class StalenessConfig(Section):
    """`[learner.staleness]`: how old tokens may be. A lag is the number of batches trained since a token's version."""

    max_lag: BatchesOrNone = 2
    """Batches that orders may be issued ahead of the learner. 0 makes actors and learner take turns; too high trains
    on tokens of a policy that has long changed. `on_policy` always has 0."""
    token_max_lag: BatchesOrNone | None = None
    """Lag in batches above which a token is masked; unset: as `max_lag`. Too low throws generated tokens away; too high
    trains on what the ratio clips anyway."""
    min_kept: Share = 0.5
    """Share of tokens that must be left unmasked, or the group is retired as stale and replaced. Too high discards
    groups that are mostly fresh; too low trains on remnants of responses."""

    @property
    def oldest_token(self) -> int:
        """`token_max_lag` in force."""
        return self.max_lag if self.token_max_lag is None else self.token_max_lag


class AlarmsConfig(Section):
    """`[learner.alarms]`: bounds on what each batch measures. A batch beyond one is an alarm: on the console, in the
    learner's log, in `metrics.jsonl`, `summary.json`, the report and `isentrope status`. Each bound is the alarm of
    its name, and 0 turns it off."""

    action: Literal["warn", "stop"] = "warn"
    """`warn`: the run goes on. `stop`: it writes a checkpoint and ends with exit code 79; the same command continues
    it, and an alarm that stays on does not end it again."""
    logp_gap: Nats | None = None
    """Mean absolute difference in nats between the log-probabilities of engine and learner, over tokens of the newest
    version; unset: 0.002 in float32 and 0.05 in bfloat16. Too low and rounding is an alarm; too high and the run may
    train on what an engine with other weights, or another formula, has sampled."""
    ratio_max: Bound = 50.0
    """Largest ratio of a batch. Too low and one rare token is an alarm; too high and a policy that has broken goes
    unnoticed."""
    kl_old: Nats = 0.1
    """Divergence in nats per token between the policy during a batch's updates and before them. Too low and large
    but sound steps are an alarm; too high and a policy that has broken goes unnoticed."""
    entropy_share: Share = 0.1
    """Entropy as a share of the first batch's, below which it has collapsed. Too low tells it when nothing is left to
    explore; too high is an alarm where a task simply has one answer."""
    no_signal: BatchesOrNone = 5
    """Batches in a row in which every advantage is 0 or no group was left, so that nothing can be learned; more are
    an alarm. Too low and a few hard batches are one; too high and a run spends its time on nothing."""
    failed: Share = 0.1
    """Share of the groups, or of the responses, of the last `window` batches that failed: in the engine, in the
    reward, in the environment, or as a record. Too low and a passing fault is an alarm; too high and training goes on
    with the easiest part of the data."""
    retired: Share = 0.8
    """Share of the groups of the last `window` batches that were generated and replaced: as too old, or as of one
    outcome. Too low is an alarm where a filter works as it should; too high hides that most work is thrown away."""
    truncated: Share = 0.5
    """Share of a batch's responses that the length limit ended. Too low is an alarm for a long tail; too high hides
    that most answers are cut off and count as wrong."""
    at_bound: BatchesOrNone = 20
    """Batches in a row that a controller's value stays at its `low` or `high`; more are an alarm. Too low and its way
    to the target is one; too high hides that it cannot reach the target."""
    idle: BatchesOrNone = 20
    """Batches in a row that a controller's value does nothing; more are an alarm. Too low and a controller that waits
    for entropy to reach its target is one; too high hides that it never acts."""
    window: Batches = 10
    """Batches over which `failed` and `retired` are taken. Too few and one bad batch is an alarm; too many tell it
    late."""


class CriticConfig(Section):
    """`[learner.critic]`: the network that estimates values, if the method has a critic. It is divided and saved as the
    policy is, and takes as much memory; `learner.objective.critic` says how it is trained."""

    path: str | None = None
    """Model whose network the critic begins with, a folder or a Hugging Face id; unset: `model.path`. It must know the
    same tokens, and a folder must be on the machine of every rank; the output layer is replaced by one that gives
    values."""
    learning_rate: Rate | None = None
    """AdamW's learning rate of the critic; unset: as `learner.learning_rate`. Too low and its values explain nothing
    for as long as the run is; too high and they swing from batch to batch, and advantages with them."""


class LearnerConfig(Section):
    """`[learner]`: the method, how a batch is trained, and what is kept of the run."""

    method: str | list[str] = "grpo"
    """Preset of `learner/methods`, a path to a TOML file, or a list of them that is merged from left to right;
    `isentrope methods` lists the presets."""
    mode: Literal["async", "on_policy"] = "async"
    """`async`: actors and learner work at the same time, with bounded lag. `on_policy`: they take turns, every token is
    of the newest weights, and a batch is one update. `isentrope mode` changes it while the run goes on."""
    ranks: Processes = 1
    """Processes that train together, each with its own GPU if there are any. More than there is work for wait for each
    other at every update. Another start may have more or fewer: weights and optimizer are carried over to the bit, and
    from then on sums are rounded in another order."""
    zero_stage: Annotated[int, Limits(0, 3)] = 2
    """DeepSpeed's ZeRO stage; splits over the ranks: 0 nothing, 1 optimizer state, 2 also gradients, 3 also weights.
    Higher saves memory per rank and costs communication."""
    prompts_per_batch: Prompts = 32
    """Groups in a batch, that is prompts. Too few and gradients are noisy; too many and the policy is updated rarely
    for the tokens spent."""
    updates_per_batch: Updates = 1
    """Optimizer updates over which the groups of a batch are divided; must divide `prompts_per_batch`. With 1 ratios
    stay 1, and clips and divergences to the old policy do nothing; too many move the policy far from what sampled."""
    epochs: Passes = 1
    """Passes over each batch (not over the data set). More reuse tokens that are expensive to generate; too many fit
    the batch instead of the task."""
    micro_batch_tokens: Tokens = 16384
    """Tokens of one forward and backward pass on a rank, prompts and padding included (only on a CPU rows are padded);
    must hold the longest response. Too high runs out of memory; too low leaves the hardware idle. The gradient is the
    same, but for rounding."""
    learning_rate: Rate = 1e-6
    """AdamW's learning rate after the warm-up. Too high destroys the policy within a few batches, often with a sudden
    fall of entropy; too low learns nothing in the batches there are."""
    warmup_updates: UpdatesOrNone = 0
    """Optimizer updates over which the learning rate rises linearly to its value. Too few let Adam's first, noisy
    steps be large; too many waste batches."""
    adam_betas: tuple[Decay, Decay] = (0.9, 0.95)
    """AdamW's decay rates of the first and second moment of the gradient. The nearer to 1, the longer past batches
    count."""
    weight_decay: Annotated[float, Limits(0, 100)] = 0.0
    """AdamW's weight decay per update, times the learning rate. Too high pulls the model's weights towards 0 and with
    that away from what pretraining found."""
    max_grad_norm: Annotated[float, Limits(1e-9, MAX_NUMBER)] = 1.0
    """Norm that a gradient is scaled down to if it is larger. Too low makes every update the same small size; too high
    lets one bad batch through."""
    gradient_checkpointing: bool = False
    """Compute activations again in the backward pass instead of keeping them: much less memory, about a third more
    time."""
    batches: Batches = 100
    """Batches of the whole run, those of earlier starts included. A finished run is prolonged by raising it."""
    checkpoint_every: Batches = 20
    """Batches between two checkpoints. Too rare and a crash repeats many batches, while the broker holds all their
    groups; too often and training waits for the disk."""
    keep_checkpoints: Copies = 2
    """Checkpoints kept on the disk; each takes several times the model's size. With 1 a damaged one leaves nothing to
    go back to."""
    retain: Literal["none", "groups"] = "none"
    """Part of each trained batch that stays in the run's folder. `none`: nothing. `groups`: plan and groups, for
    `isentrope replay` and `isentrope train --only train`; 9 bytes for each token of a response and 220 for the
    response, and nothing deletes them. Set late, only what is trained from then on can be repeated, from a checkpoint,
    and no other run can train them."""
    poison_after: TimesOrNone = 2
    """Deaths of ranks, one after another and all while they trained the same batch, after which its groups are retired
    as `poison`: they go to the dead letters (`isentrope dlq`), and training goes on with others. 0: never. Too low
    takes a batch that was hit from outside for poisoned; above `cluster.restart_limit` the run ends first."""
    eval_every: BatchesOrNone = 0
    """Batches between two evaluations on held-out prompts, during which training waits; 0: only before and after the
    run, and only if there is held-out data."""
    start_timeout_s: Seconds = 600.0
    """Seconds the command waits for the learner to open the run, also when its ranks were started again, and the ranks
    for a model that is still being made. Too low ends the run while a large model still loads; too high shows late a
    learner that never comes up."""
    stall_timeout_s: Seconds = 1800.0
    """Seconds without progress after which the run ends with exit code 78 and names what was waited for. Too low ends
    runs whose groups simply take long; too high keeps machines waiting for a process that is gone."""
    collective_timeout_s: Seconds = 600.0
    """Seconds a rank waits for the others in one step that all take together. Too low ends the run while one rank
    compiles or writes; too high notices a dead rank late."""
    begin_from: str = ""
    """Folder of another run, of the same architecture, `learner.zero_stage` and `model.dtype`: with its newest
    checkpoint this run begins. Weights, optimizer with its count of updates, and critic go on; batches, data,
    controllers and reference are those of a new run. `--from` of `isentrope train` sets it; empty: the weights of
    `model.path`, and a new optimizer."""
    critic: CriticConfig = CriticConfig()
    """Network of a critic, for methods that have one."""
    staleness: StalenessConfig = StalenessConfig()
    """Bounds on the age of tokens."""
    attribution_every: BatchesOrNone = 10
    """Batches between two measurements of what the updates of a batch did to the entropy at its own tokens, by one more
    pass over at most 64 responses; 0: never. The report compares it with the predicted change."""
    alarms: AlarmsConfig = AlarmsConfig()
    """Bounds on what a batch measures, and what happens beyond them."""
    objective: dict[str, object] = Field(default_factory=dict)
    """Stages and their keys, `[learner.objective.*]`, put over the presets of `method`; see the stages."""
    tensorboard: bool = False
    """Write every number of `metrics.jsonl` to TensorBoard files in the run's folder too."""

    def in_mode(self, mode: str) -> "LearnerConfig":
        """Return what holds in `mode`, one of `Mode`: an on-policy batch is one update in one epoch, of lag 0."""
        if mode != "on_policy":
            return self.model_copy(update={"mode": mode})
        staleness = self.staleness.model_copy(update={"max_lag": 0})
        fixed = {"mode": mode, "updates_per_batch": 1, "epochs": 1, "staleness": staleness}
        return self.model_copy(update=fixed)

"""Configuration of the learner; imports nothing heavy. The objective's own tables are in `objective/schema.py`."""

from typing import Annotated, Literal

from pydantic import Field, PositiveFloat, PositiveInt

from isentrope.rollout.config import Section

Mode = Literal["async", "on_policy"]


class StalenessConfig(Section):
    """`[learner.staleness]`; lags are counted in batches."""

    max_lag: Annotated[int, Field(ge=0)] = 2
    """Admission bound: how many batches ahead of the learner orders are issued."""
    token_max_lag: Annotated[int, Field(ge=0)] | None = None
    """Older tokens are masked; None: as `max_lag`."""
    min_kept: Annotated[float, Field(ge=0, le=1)] = 0.5
    """A group with a smaller share of unmasked tokens is retired as stale, and replaced."""

    @property
    def oldest_token(self) -> int:
        """`token_max_lag` in force."""
        return self.max_lag if self.token_max_lag is None else self.token_max_lag


class LearnerConfig(Section):
    """`[learner]`."""

    method: str | list[str] = "grpo"
    mode: Mode = "async"
    ranks: PositiveInt = 1
    zero_stage: Annotated[int, Field(ge=0, le=3)] = 2
    prompts_per_batch: PositiveInt = 32
    updates_per_batch: PositiveInt = 1
    epochs: PositiveInt = 1
    micro_batch_tokens: PositiveInt = 16384
    learning_rate: PositiveFloat = 1e-6
    warmup_updates: Annotated[int, Field(ge=0)] = 0
    adam_betas: tuple[float, float] = (0.9, 0.95)
    weight_decay: Annotated[float, Field(ge=0)] = 0.0
    max_grad_norm: PositiveFloat = 1.0
    gradient_checkpointing: bool = False
    batches: PositiveInt = 100
    checkpoint_every: PositiveInt = 20
    keep_checkpoints: PositiveInt = 2
    eval_every: Annotated[int, Field(ge=0)] = 0
    """Batches between evaluations; 0: only before and after, and only if there is held-out data."""
    stall_timeout_s: PositiveFloat = 1800.0
    """With no progress for this long the run ends with exit code 78 and names the culprit."""
    collective_timeout_s: PositiveFloat = 600.0
    staleness: StalenessConfig = StalenessConfig()
    objective: dict[str, object] = Field(default_factory=dict)
    """Own keys of `[learner.objective.*]`, on top of the presets of `method`."""
    tensorboard: bool = False
    prometheus_port: Annotated[int, Field(ge=0, le=65535)] = 0
    """0: no endpoint. Served on the loopback address only."""

"""The run file: composes the folders' own tables into one model."""

from pydantic import Field

from isentrope.actors.config import ActorsConfig
from isentrope.learner.config import LearnerConfig
from isentrope.rollout.config import (
    DataConfig,
    ModelConfig,
    RedisConfig,
    RunConfig,
    SamplingConfig,
    Section,
    WeightsConfig,
)


class Config(Section):
    """One run, whole."""

    run: RunConfig
    model: ModelConfig
    data: DataConfig
    redis: RedisConfig = Field(default_factory=RedisConfig)
    sampling: SamplingConfig = Field(default_factory=SamplingConfig)
    actors: ActorsConfig = Field(default_factory=ActorsConfig)
    learner: LearnerConfig = Field(default_factory=LearnerConfig)
    weights: WeightsConfig = Field(default_factory=WeightsConfig)

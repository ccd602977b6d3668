"""Configuration of the rollout actors; imports nothing heavy."""

from typing import Annotated

from pydantic import Field, PositiveFloat, PositiveInt

from isentrope.rollout.config import Section


class ActorsConfig(Section):
    """`[actors]`."""

    count: Annotated[int, Field(ge=0)] = 1
    tensor_parallel_size: PositiveInt = 1
    gpu_memory_utilization: Annotated[float, Field(gt=0, le=1)] = 0.9
    kv_cache_gib: PositiveFloat = 1.0
    """Size of the key-value cache on a CPU; a GPU sizes it by `gpu_memory_utilization`."""
    max_concurrent_groups: PositiveInt = 32
    """Groups an actor generates at a time."""
    reward_workers: PositiveInt = 1
    """Processes of an actor that run reward functions."""
    heartbeat_s: PositiveFloat = 5.0
    """An actor unheard of for three of these is gone, and its leases go to others."""
    max_tries: PositiveInt = 5
    """Leases of one group that may die before the group is retired as poisonous."""
    drain_s: PositiveFloat = 30.0
    """How long a stopping actor may finish what it holds before it hands it back."""
    start_timeout_s: PositiveFloat = 600.0
    """How long an actor waits for the learner to open the run, and then for its first weights."""
    broker_timeout_s: PositiveFloat = 300.0
    """How long an actor keeps what it has while the broker does not answer."""

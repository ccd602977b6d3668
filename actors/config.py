"""Configuration of the rollout actors; imports nothing heavy."""

from typing import Annotated, Literal

from pydantic import Field

from isentrope.rollout.config import LeaseConfig
from isentrope.rollout.units import MAX_NUMBER, Gib, Limits, Processes, ProcessesOrNone, Seconds


class ActorsConfig(LeaseConfig):
    """`[actors]`: how many rollout actors there are, what each may use, and how long each waits."""

    count: ProcessesOrNone = 1
    """Actors that the command starts. Too few leave the learner idle; too many share the same processors or wait for
    admission. 0: all actors join by `isentrope actor`."""
    min: ProcessesOrNone = 0
    """Fewest actors that `isentrope scale` and `autoscale` may ask for."""
    max: Processes | None = None
    """Most actors that `isentrope scale` and `autoscale` may ask for; unset: no bound for the one, `count` for the
    other."""
    autoscale: Literal["off", "lag"] = "off"
    """Number of actors while the run goes on: `"off"`, as it was last asked for; `"lag"`, one more where the learner
    waited for more than a fifth of its last three batches and no actor waits for room, one less where admission was
    closed for more than half of them, at most every third batch. Too many machines that come and go cost the start
    of an engine each time."""
    tensor_parallel_size: Annotated[int, Limits(1, 1024, "GPUs")] = 1
    """GPUs of one actor, over which vLLM splits the model. Too low and the model does not fit; higher than it needs
    costs communication at every token."""
    gpu_memory_utilization: Annotated[float, Field(gt=0, le=1)] = 0.9
    """Share of a GPU's memory that vLLM takes. Too high and loading new weights runs out of memory; too low leaves
    little key-value cache, so that requests wait. Without effect on a CPU."""
    kv_cache_gib: Gib = 1.0
    """Size of the key-value cache on a CPU, in GiB. Too low and requests are interrupted and computed again; too high
    takes memory from the learner on the same machine. On a GPU see `gpu_memory_utilization`."""
    canary_limit: Annotated[float, Limits(1e-9, MAX_NUMBER, "nats")] | None = None
    """Mean difference, in nats, that the engine's log-probabilities of a version's canary may have from the learner's;
    unset: by the dtype and what the engine's own versions measure. Too low refuses healthy versions, and the actor
    ends; too high serves a policy that is not the learner's. Raise it only for a model whose rounding alone is above
    the default."""
    max_concurrent_groups: Annotated[int, Limits(1, 1 << 16, "groups")] = 32
    """Groups that an actor generates at a time. Too low leaves the engine half empty; too high gives one actor the
    orders of the others, and makes the tokens of each group span more versions of the weights."""
    reward_workers: Processes = 1
    """Processes of an actor that run reward functions. Too few and finished groups queue for their score; too many
    take processor cores from the engine."""
    drain_s: Seconds = 30.0
    """Seconds in which a stopping actor may finish what it holds before it hands it back. Too low and generated tokens
    are thrown away; too high delays the end of an actor that is told
    to leave while the run goes on."""
    start_timeout_s: Seconds = 600.0
    """Seconds an actor that has a place may take to start its engine, and then waits for its first weights; the run
    ends if no engine runs for as long. Too low ends it while a large model still loads, or while a cluster adds
    machines; too high shows late an actor that never comes up."""

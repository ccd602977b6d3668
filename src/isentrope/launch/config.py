"""Configuration of the machines that a run works on; imports nothing heavy."""

from typing import Literal

from pydantic import Field

from isentrope.rollout.config import Section
from isentrope.rollout.units import Times, TimesOrNone

Labels = dict[str, str]
"""Label -> value, or one of Ray's selectors: `in(a,b)`, `!a`, `!in(a,b)`."""


class ClusterConfig(Section):
    """`[cluster]`: where the processes of the command run. Every start of the run may change it."""

    ray: str = ""
    """`HOST:PORT` of a running Ray cluster; empty: the command starts a Ray of its own, on this machine alone.
    `--ray-address` wins over it."""
    gpus: Literal["auto"] | bool = "auto"
    """Kind of processors for actors and ranks: `"auto"`, GPUs if Ray has any when the
    command starts; true: GPUs, also if there are none yet, as in a cluster that adds machines on demand; false:
    processor cores."""
    interface: str = ""
    """Network interface by which ranks on several machines meet, the same on every machine, such as `eth0`; empty: as
    each machine's environment says, else the one of its route to the head of the cluster. A name that a machine does
    not have keeps its ranks from meeting."""
    env: dict[str, str] = Field(default_factory=dict)
    """Environment variables of all the processes that the command starts in a running cluster; they win over those of
    the machines. Secrets do not belong here: Ray shows them."""
    learner_labels: Labels = Field(default_factory=dict)
    """Labels of Ray nodes (`ray start --labels role=learner`) on which the ranks may be; empty: any. Labels that too
    few nodes have leave the ranks waiting."""
    actor_labels: Labels = Field(default_factory=dict)
    """Labels of Ray nodes on which actors may be; empty: any, those without ranks first. Labels that too few nodes have
    leave actors waiting for room."""
    quarantine_after: Times = 3
    """Deaths of actors and ranks on one node within half an hour after which none starts there for half an hour, as
    long as other nodes have room. Too low and a few unlucky deaths empty a good node; too high and a bad one takes
    actor after actor."""
    restart_limit: TimesOrNone = 3
    """Deaths of ranks without a new checkpoint or dead letter in between after which the run ends; that they do not
    open the run again within `learner.start_timeout_s` is one. Between two checkpoints as many dead letters count. Too
    low ends a run on machines that are taken away often; too high repeats
    for hours what cannot succeed."""

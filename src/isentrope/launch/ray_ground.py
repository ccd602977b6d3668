"""Placement groups of actors on Ray: one for each actor, so that each comes and goes alone."""

from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Any

from isentrope.launch.actor_process import RolloutActor
from isentrope.launch.placement import Bundle, Node
from isentrope.launch.surroundings import Surroundings

if TYPE_CHECKING:
    from isentrope.actors.worker import ActorOptions


ROOM_S = 0.2
"""Wait for a place that is free: the next actor is then placed elsewhere. It is looked for on after that."""


@dataclass(frozen=True, slots=True)
class End:
    """End of an actor, in words, and the error it raised itself, if it did."""

    why: str
    cause: BaseException | None = None


@dataclass(frozen=True, slots=True)
class PlacedActor:
    """A Ray actor in a placement group of its own, which may still wait for room."""

    group: Any
    handle: Any
    future: Any
    """Result of its only call."""

    def node(self) -> str:
        """Return the id of its node; empty: it waits for room."""
        from ray.util import placement_group_table

        table = placement_group_table(self.group)
        return next(iter(table["bundles_to_node_id"].values())) if table.get("state") == "CREATED" else ""

    def has_ended(self) -> bool:
        """Return True if its call has."""
        import ray

        done, _ = ray.wait([self.future], timeout=0)
        return bool(done)

    def end(self) -> "End":
        """Return how its call has ended."""
        import ray
        from ray.exceptions import RayActorError, RayTaskError

        try:
            ray.get(self.future)
        except RayTaskError as error:
            return End(f"failed: {error.cause}", error.cause)
        except RayActorError:
            return End("died")
        return End("left")

    def remove(self) -> None:
        """End it at once, and free its place."""
        import ray
        from ray.util import remove_placement_group

        ray.kill(self.handle)
        remove_placement_group(self.group)


@dataclass(slots=True)
class RayGround:
    """Nodes of Ray, for the actors of a command."""

    bundle: Bundle
    surroundings: Surroundings
    own: set[str] = field(default_factory=set)
    """Ids of the placement groups that were made here."""

    def start(self, options: "ActorOptions", log: Path, selector: Mapping[str, str]) -> PlacedActor:
        """Start an actor on a node that `selector` allows, once one has room."""
        import ray
        from ray.util import placement_group
        from ray.util.scheduling_strategies import PlacementGroupSchedulingStrategy

        group = placement_group([self.bundle.resources()], "STRICT_PACK", bundle_label_selector=[dict(selector)])
        self.own.add(group.id.hex())
        group.wait(ROOM_S)
        remote: Any = ray.remote(
            num_cpus=self.bundle.cpus,
            num_gpus=self.bundle.gpus,
            max_restarts=0,
            scheduling_strategy=PlacementGroupSchedulingStrategy(group),
        )(RolloutActor)
        handle = remote.remote()
        return PlacedActor(group, handle, handle.serve.remote(options, log, self.surroundings))

    def nodes(self) -> list[Node]:
        """Return the live nodes."""
        return live_nodes()

    def taken(self) -> set[str]:
        """Return the nodes with placement groups that were not made here."""
        from ray.util import placement_group_table

        others = {name: group for name, group in placement_group_table().items() if name not in self.own}
        return {
            node
            for group in others.values()
            if group["state"] == "CREATED"
            for node in group["bundles_to_node_id"].values()
        }

    def free(self) -> float:
        """Return the free units of what is scarce for an actor: GPUs, or processor cores."""
        import ray

        return float(ray.available_resources().get("GPU" if self.bundle.gpus else "CPU", 0.0))


def live_nodes() -> list[Node]:
    """Return the live nodes of the cluster."""
    import ray

    return [
        Node(
            id=node["NodeID"],
            host=node["NodeManagerHostname"],
            cpus=node["Resources"].get("CPU", 0.0),
            gpus=node["Resources"].get("GPU", 0.0),
            labels=node.get("Labels", {}),
        )
        for node in ray.nodes()
        if node["Alive"]
    ]

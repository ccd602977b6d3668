"""Choice of the nodes where actors and ranks may be placed, from nodes, deaths and places. Pure: no Ray, no clock.

Ray places; this decides which nodes it must leave out. Wishes are given up one after another when there is no room
under them, so that nothing waits unless no allowed node has room.
"""

import re
from collections import Counter, defaultdict
from collections.abc import Collection, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass

NODE_ID = "ray.io/node-id"
"""Label that Ray gives every node."""

QUARANTINE_S = 1800.0
"""Time in which deaths on one node are counted, and for which it is then left out."""

RECENT_S = 60.0
"""Time for which a node is left out after any death: Ray may not know yet that the node is gone."""


@dataclass(frozen=True, slots=True)
class Node:
    """A live node: what it has in all, not what is free."""

    id: str
    host: str
    cpus: float
    gpus: float
    labels: Mapping[str, str]


@dataclass(frozen=True, slots=True)
class Bundle:
    """Room of one actor or rank, on one node."""

    cpus: float
    gpus: int

    def __str__(self) -> str:
        return f"{self.gpus} GPU{'s' * (self.gpus > 1)}" if self.gpus else f"{self.cpus:g} CPU"

    def fits(self, node: Node) -> bool:
        """Return True if an empty `node` would have room."""
        return self.cpus <= node.cpus and self.gpus <= node.gpus

    def resources(self) -> dict[str, float]:
        """Return it by Ray's names."""
        return {"CPU": self.cpus} | ({"GPU": float(self.gpus)} if self.gpus else {})


class Deaths:
    """Deaths of actors and ranks by node, and the nodes that are left out because of them."""

    def __init__(self, quarantine_after: int) -> None:
        self.limit = quarantine_after
        self._at: dict[str, list[float]] = defaultdict(list)
        self._until: dict[str, float] = {}

    def note(self, node: str, now: float) -> bool:
        """Count a death; return True if the node is put in quarantine because of it."""
        self._at[node] = [at for at in self._at[node] if now - at < QUARANTINE_S] + [now]
        if len(self._at[node]) < self.limit or now < self._until.get(node, now):
            return False
        self._until[node] = now + QUARANTINE_S
        return True

    def notice(self, host: str) -> str:
        """Return the line that says that a node was put in quarantine."""
        return f"{host} has had {self.limit} deaths of actors or ranks: others are placed elsewhere"

    def quarantined(self, now: float) -> set[str]:
        """Return the nodes that have killed too many."""
        return {node for node, until in self._until.items() if now < until}

    def recent(self, now: float) -> set[str]:
        """Return the nodes of the newest deaths."""
        return {node for node, at in self._at.items() if at and now - at[-1] < RECENT_S}


@dataclass(frozen=True, slots=True)
class Avoided:
    """Nodes that are better left out."""

    quarantined: Collection[str] = ()
    recent: Collection[str] = ()
    ranks: Collection[str] = ()
    """Nodes with other placement groups than those of this command's actors, such as the ranks'."""
    actors: Collection[str] = ()
    """Nodes that have more actors of this command than another."""

    def wishes(self) -> Iterator[set[str]]:
        """Yield the nodes to leave out, most wishes first."""
        bad = set(self.quarantined)
        yield bad | {*self.recent, *self.ranks, *self.actors}
        yield bad | {*self.recent, *self.ranks}
        yield bad | {*self.recent}
        yield bad


def selectors(
    nodes: Sequence[Node], bundle: Bundle, labels: Mapping[str, str], avoided: Avoided
) -> list[dict[str, str]]:
    """Return label selectors of a placement group, the best first; the last is the one to wait under.

    A selector names nodes that are left out, never those that are taken: a cluster may get new ones. If every node that
    could have the actor is in quarantine, none is left out: it is tried there again.
    """
    there = able(nodes, bundle, labels)
    found: list[dict[str, str]] = []
    for out in avoided.wishes():
        selector = dict(labels) | _without(out & there)
        if there - out and selector not in found:
            found.append(selector)
    return found or [dict(labels)]


def able(nodes: Sequence[Node], bundle: Bundle, labels: Mapping[str, str]) -> set[str]:
    """Return the nodes that would have room for a bundle if they were empty, and have the labels."""
    return {node.id for node in nodes if bundle.fits(node) and matches(node.labels, labels)}


def crowded(nodes: Sequence[Node], bundle: Bundle, places: Iterable[str]) -> set[str]:
    """Return the nodes that have more actors than another that could have one; `places`: the node of each actor."""
    count = Counter(places)
    least = min((count[node.id] for node in nodes if bundle.fits(node)), default=0)
    return {node for node, actors in count.items() if actors > least}


def matches(labels: Mapping[str, str], selector: Mapping[str, str]) -> bool:
    """Return True if a node with these labels is one that Ray's `selector` means."""
    return all(_means(wanted, labels.get(name, "")) for name, wanted in selector.items())


def waits_for_room(waiting: int, bundle: Bundle, free: float) -> str:
    """Return the line that says so; "" if no actor waits."""
    return f"waits for room: {waiting} actor{'s' * (waiting > 1)} of {bundle}, free {free:g}" if waiting else ""


def _without(nodes: Collection[str]) -> dict[str, str]:
    return {NODE_ID: f"!in({','.join(sorted(nodes))})"} if nodes else {}


def _means(wanted: str, value: str) -> bool:
    found = re.fullmatch(r"(!?)(?:in\((.*)\)|(.*))", wanted)
    assert found is not None
    among = [each.strip() for each in found[2].split(",")] if found[2] is not None else [found[3]]
    return (value in among) != bool(found[1])

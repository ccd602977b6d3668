"""Actors as far as the delivery protocol sees them: they take orders, answer them, die, and say things twice."""

import numpy as np
from protocol_model import MAX_TRIES
from wire_records import VOCABULARY, make_actor_port, make_group, make_response

from isentrope.rollout.broker.actor_port import ActorPort, PublishResult
from isentrope.rollout.broker.connection import Broker
from isentrope.rollout.broker.run_view import ActorState
from isentrope.rollout.wire.codec import encode_group
from isentrope.rollout.wire.types import Group, WorkOrder, version_of


class Actor:
    """Rollout processes that follow each other under one name: whoever loses its leases comes back under a new id."""

    def __init__(self, broker: Broker, name: str) -> None:
        self._broker = broker
        self._name = name
        self._lives = 0
        self._held: list[tuple[ActorPort, WorkOrder]] = []
        self.port = self._join()

    def _join(self) -> ActorPort:
        self._lives += 1
        port = make_actor_port(self._broker, f"{self._name}.{self._lives}", max_tries=MAX_TRIES)
        assert port.heartbeat(ActorState(id=port.actor, boot=port.actor))
        return port

    def die(self) -> str:
        """Returns the id under which its leases stay behind."""
        gone = self.port.actor
        self._held.clear()
        self.port = self._join()
        return gone

    def rejoin(self) -> None:
        """Its leases were taken away; it still publishes what it has."""
        self.port = self._join()

    def take(self, count: int) -> set[int]:
        """Returns the seqs of the orders."""
        taken = self.port.take(count, 0.0)
        self._held += [(self.port, order) for order in taken]
        return {order.seq for order in taken}

    def lose_take(self) -> None:
        """A read whose reply is lost: the orders are leased, and nobody knows."""
        work = self.port.broker.keys.work
        self.port.broker.group_read(lambda client: client.xreadgroup("actors", self.port.actor, {work: ">"}, 2))

    def refresh(self) -> None:
        for _ in range(2):
            self.port.refresh([])

    def hand_back(self) -> None:
        if self._held:
            port, order = self._held.pop()
            port.hand_back([order])

    def publish(self, how: str = "") -> None:
        """Finish the oldest order. `how`: twice (a lost reply), poison, fail."""
        if not self._held:
            return
        port, order = self._held[0]
        manifest = self.port.view.weights()
        if manifest is None or manifest.version < order.min_version:
            return
        if how == "fail":
            result = port.fail(order, "reward", "")
        elif how == "poison":
            result = _poison(port, order)
        else:
            group = _generate(order, manifest.version, port.actor)
            result = port.publish(group, order)
            if how == "twice":
                again = port.publish(group, order)
                assert again is (PublishResult.FULL if result is PublishResult.FULL else PublishResult.DUPLICATE)
        if result is not PublishResult.FULL:
            self._held.pop(0)


def _generate(order: WorkOrder, version: int, actor: str) -> Group:
    """Depends on order and weights only, as sampling with seeds does; the actor's name is the same for all."""
    tokens = np.array([order.seq % VOCABULARY, version % VOCABULARY], np.int32)
    response = make_response(version, tokens=2, seed=order.seq)
    return make_group(
        order.seq, attempt=order.attempt, actor=actor.partition(".")[0], prompt=tokens, responses=(response,)
    )


def _poison(port: ActorPort, order: WorkOrder) -> PublishResult:
    header, payload = encode_group(_generate(order, version_of(1, 0), port.actor))
    return port._publish(order, "published", {**header, "crc": 1, "payload": payload}, len(payload))

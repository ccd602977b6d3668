"""Orders from the entries of their streams. Every actor may add entries: one that is not an order is deleted, and ends
nobody."""

import logging
from collections.abc import Callable, Mapping, Sequence
from functools import partial
from typing import TypeAlias, TypeVar

from isentrope.rollout.broker.connection import Broker, Client
from isentrope.rollout.broker.keys import ACTORS
from isentrope.rollout.units import MAX_RESPONSES
from isentrope.rollout.wire.types import EvalOrder, WorkOrder

RawOrder: TypeAlias = tuple[str, str, dict[str, str]]
"""Stream, id and fields of an entry."""

Order = TypeVar("Order", WorkOrder, EvalOrder)

logger = logging.getLogger(__name__)


def orders_of(
    broker: Broker, entries: Sequence[RawOrder], parse: Callable[[str, str, Mapping[str, str]], Order]
) -> list[Order]:
    """Return the orders of entries that the caller has leased; delete those that are none."""
    orders: list[Order] = []
    for stream, entry_id, fields in entries:
        try:
            orders.append(parse(stream, entry_id, fields))
        except (KeyError, ValueError):
            logger.warning("entry %s of %s is not an order; it is deleted", entry_id, stream)
            broker.run(partial(_delete, stream=stream, entry_id=entry_id))
    return orders


def work_order(stream: str, entry_id: str, fields: Mapping[str, str]) -> WorkOrder:
    """Return the training order of an entry; KeyError or ValueError if it is none."""
    if _whole(fields["attempt"]) != 0:
        raise ValueError("the learner orders no other attempt than 0, and refuses its group")
    return WorkOrder(
        seq=_whole(fields["seq"]),
        attempt=_whole(fields["attempt"]),
        incarnation=_whole(fields["incarnation"]),
        min_version=_whole(fields["min_version"]),
        tries=_whole(fields["tries"]),
        stream=stream,
        entry_id=entry_id,
    )


def eval_order(stream: str, entry_id: str, fields: Mapping[str, str]) -> EvalOrder:
    """Return the evaluation order of an entry; KeyError or ValueError if it is none."""
    samples = _whole(fields["samples"])
    if not 1 <= samples <= MAX_RESPONSES:
        raise ValueError(f"{samples} samples")
    return EvalOrder(
        name=fields["name"],
        index=_whole(fields["index"]),
        version=_whole(fields["version"]),
        samples=samples,
        entry_id=entry_id,
    )


def number_of(text: str) -> int | None:
    """Return a number that is not negative; None: the text is none."""
    return int(text) if text.isascii() and text.isdigit() and len(text) < 19 else None


def text_of(raw: bytes) -> str:
    """Return bytes, which may be any, as text."""
    return raw.decode(errors="replace")


def _whole(text: str) -> int:
    if (number := number_of(text)) is None:
        raise ValueError(f"{text[:32]!r} is not a number")
    return number


def _delete(client: Client, stream: str, entry_id: str) -> None:
    client.xack(stream, ACTORS, entry_id)
    client.xdel(stream, entry_id)

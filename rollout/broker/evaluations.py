"""The learner's side of evaluation work: orders pinned to a version, in their own stream, outside the ledger.

Open orders live in the learner's memory; the broker may lose them, they are then sent again.
"""

import logging
import time
from collections.abc import Sequence
from dataclasses import replace

import numpy as np

from isentrope.errors import RecordError
from isentrope.rollout.broker.answers import BrokerFullError
from isentrope.rollout.broker.connection import BLOCK_S
from isentrope.rollout.broker.fenced import FencedBroker, RawFields
from isentrope.rollout.broker.news import wake
from isentrope.rollout.units import BATCH_BITS
from isentrope.rollout.wire.codec import RawHeader, decode_eval, header_int, header_text, split_fields
from isentrope.rollout.wire.spec import RunSpec
from isentrope.rollout.wire.types import EvalOrder, EvalResult, Group

logger = logging.getLogger(__name__)


class Evaluations:
    """Open evaluation orders of one learner, from issue to result."""

    def __init__(self, fenced: FencedBroker, spec: RunSpec) -> None:
        self._fenced = fenced
        self._spec = spec
        self._keys = fenced.broker.keys
        self._open: dict[tuple[str, int, int], EvalOrder] = {}
        self._unsent: list[EvalOrder] = []
        self._serial = 0

    def issue(self, orders: Sequence[EvalOrder]) -> None:
        """Order evaluations; what a full broker refuses goes out with a later `admit`."""
        self._open.update({(order.name, order.index, order.version): order for order in orders})
        self._unsent += orders
        self._send()

    def repeat(self) -> None:
        """Send all open orders again, with the next `admit`."""
        self._unsent = list(self._open.values())

    def admit(self, count: int, block_s: float) -> list[EvalResult]:
        """Return up to `count` results of open orders, each once; wait up to `block_s` seconds for the first."""
        deadline = time.monotonic() + block_s
        self._send()
        while True:
            raw = self._fenced.read(self._keys.evald, "0", count, 0.0)  # a reply that was lost
            raw = raw or self._fenced.read(self._keys.evald, ">", count, min(block_s, BLOCK_S))
            results = [result for entry_id, fields in raw if (result := self._decode(entry_id, fields)) is not None]
            if raw:
                self._fenced.call("drop", *(entry_id for entry_id, _ in raw), keys=[self._keys.evald])
            results = [r for r in results if self._open.pop((r.name, r.group.seq, r.version), None) is not None]
            if results or time.monotonic() >= deadline:
                return results

    def _send(self) -> None:
        if not self._unsent:
            return
        self._serial += 1
        serial = self._fenced.incarnation << BATCH_BITS | self._serial
        parts = [(order.name, order.index, order.version, order.samples) for order in self._unsent]
        try:
            self._fenced.call("issue_eval", serial, *(value for part in parts for value in part))
        except BrokerFullError as error:
            logger.warning("%s", error.what)
            return
        self._unsent = []
        wake(self._fenced.broker)

    def _decode(self, entry_id: str, fields: RawFields) -> EvalResult | None:
        header, payload = split_fields(fields)
        try:
            if header_text(header, "kind") == "tombstone":
                logger.warning("evaluation order abandoned: %s", header_text(header, "reason"))
                return _unanswered(header, "index")
            asked = (header_text(header, "name"), header_int(header, "seq"), header_int(header, "version"))
            order = self._open.get(asked)
            limits = self._spec.limits(group_size=None if order is None else order.samples)
            limits = replace(limits, temperature=self._spec.eval_temperature(asked[0]))
            return decode_eval(header, payload, max_bytes=self._spec.max_record_bytes, limits=limits)
        except RecordError as error:
            logger.warning("evaluation result %s is invalid: %s (%s)", entry_id, error.what, error.where)
        try:
            return _unanswered(header, "seq")  # else the evaluation would wait for it until its time limit
        except RecordError:
            return None


def _unanswered(header: RawHeader, index: str) -> EvalResult:
    """Return the result of an order that failed for good; `index` is the field of the prompt's index."""
    none = np.zeros(0, np.int32)
    group = Group(header_int(header, index), 0, header_text(header, "actor"), none, (), 1.0)
    return EvalResult(header_text(header, "name"), header_int(header, "version"), group)

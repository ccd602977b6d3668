"""Groups between the broker and training: which are kept, which are too old, and which make the next batch.

Plain state and rules: no broker, no threads, no clocks. The ledger in it says what is done; everything else here can be
thrown away and read again from the broker.
"""

import logging
from collections import Counter
from collections.abc import Iterable, Mapping
from dataclasses import dataclass

import numpy as np
from pydantic import ValidationError

from isentrope.errors import RecordError
from isentrope.learner.intake.ledger import Ledger
from isentrope.learner.intake.record import PlannedGroup, PlanRecord
from isentrope.rollout.broker.learner_port import Entry
from isentrope.rollout.wire.codec import decode_group
from isentrope.rollout.wire.control import Mode
from isentrope.rollout.wire.spec import RunSpec
from isentrope.rollout.wire.types import Group, batch_of, version_of

STALE = "stale"
INVALID = "invalid"
ALL_CORRECT = "all_correct"
NONE_CORRECT = "none_correct"
SURPLUS = "surplus"
"""Reason of what is still out when the last batch was trained: a restart may find fewer groups retired than before."""

logger = logging.getLogger(__name__)


@dataclass(frozen=True, slots=True)
class AdmissionRules:
    """Which groups are not trained; lags are counted in batches."""

    token_max_lag: int
    """`async`: older tokens are masked."""
    min_kept: float
    """A group with a smaller share of its tokens left is stale."""
    max_replaced: int = 0
    """So many groups that are all right or all wrong are replaced for one batch; further ones are trained."""


@dataclass(frozen=True, slots=True)
class ReadyBatch:
    """The batch to be trained now: whole groups, ascending by seq."""

    record: PlanRecord
    """Also names the entry that each group came in."""
    groups: tuple[Group, ...]
    replayed: bool
    """The plan is that of a learner which died after it; the weights it started from are the present ones."""


@dataclass(frozen=True, slots=True)
class _Held:
    """What is known of a group beside itself."""

    entry: str
    tokens: Mapping[int, int]
    """By version: trainable tokens that it generated."""


class Buffer:
    """What one learner has in its hands. Not thread-safe."""

    def __init__(self, ledger: Ledger, spec: RunSpec, incarnation: int, rules: AdmissionRules, mode: Mode) -> None:
        self.ledger = ledger
        self.mode = mode
        self.cursor = ledger.cursor
        """Seqs from here on were never issued."""
        self.newest_version = 0
        """No token can be from a later version."""
        self.in_hand: ReadyBatch | None = None
        """The batch that is being trained."""
        self._spec = spec
        self._incarnation = incarnation
        self._rules = rules
        self._strict_from = 0
        self._replaced = 0  # for the next batch
        self._groups: dict[int, Group] = {}
        self._replays: list[ReadyBatch] = []
        self._held: dict[int, _Held] = {}  # of every group here, also those in a batch
        self._uncommitted: set[str] = set()
        self._plans: set[int] = set()

    # --- what comes in

    def add(self, entry: Entry) -> bool:
        """Take an entry in. False: a duplicate, which needs no further trace and is to be deleted."""
        held = self._held.get(entry.seq)
        if entry.id in self._uncommitted or (held is not None and held.entry == entry.id):
            return True  # read again after the broker changed
        if entry.seq >= self.cursor or self.ledger.known(entry.seq) or held is not None:
            return False
        if entry.kind == "tombstone":
            logger.warning("seq %d given up (%s): %s, by %s", entry.seq, entry.reason, entry.detail, entry.actor)
            self._retire(entry.seq, entry.id, entry.reason)
            return True
        try:
            group = self._decode(entry)
        except RecordError as error:
            logger.warning("group %d of %s is invalid: %s (%s)", entry.seq, entry.actor, error.what, error.where)
            self._retire(entry.seq, entry.id, INVALID)
            return True
        self._groups[entry.seq] = group
        self._held[entry.seq] = _Held(entry.id, _trainable(group))
        return True

    def clear(self) -> None:
        """Forget every group that is not being trained: the broker may have lost them, and then nobody could repeat
        a batch they are in."""
        self._groups.clear()
        self._replays.clear()
        training = () if self.in_hand is None else self.in_hand.groups
        self._held = {group.seq: self._held[group.seq] for group in training}

    def queue_replays(self, plans: Mapping[int, bytes]) -> int:
        """Line up the stored plans that follow from the present state without a gap, and whose very entries are here;
        returns how many. The others are void: their groups are free again."""
        self._plans.update(plans)
        batch, chain = self.ledger.batches, self.ledger.chain
        if self.in_hand is not None:
            batch, chain = self.in_hand.record.batch, self.in_hand.record.after
        while (blob := plans.get(batch + 1)) is not None:
            groups = self._fitting(blob, batch + 1, chain)
            if groups is None:
                logger.warning("stored plans from batch %d on do not fit and are dropped", batch + 1)
                break
            batch, chain = batch + 1, groups.record.after
            self._replays.append(groups)
        return len(self._replays)

    def retire_unfit(self) -> int:
        """Retire the groups that will not be trained: those that are too old by now, and those whose outcome teaches
        nothing; returns how many. Planned ones are not judged again."""
        held = len(self._groups)
        for seq, group in sorted(self._groups.items()):
            if self._is_stale(seq):
                self._retire_held(seq, STALE)
            elif self._replaced < self._rules.max_replaced and (outcome := self._only_outcome(group)):
                self._retire_held(seq, outcome)
                self._replaced += 1
                if self._replaced == self._rules.max_replaced:
                    logger.warning("%d groups were all right or all wrong: the batch takes what comes", self._replaced)
        return held - len(self._groups)

    # --- modes

    def switch(self, mode: Mode) -> None:
        """From now on choose by `mode`. What was issued before a switch to `on_policy` is still trained as `async`."""
        if mode is Mode.ON_POLICY and self.mode is Mode.ASYNC:
            self._strict_from = self.cursor
        self.mode = mode

    # --- what goes out

    def take(self) -> ReadyBatch | None:
        """The next batch, now in hand; None: not all of its groups are here."""
        assert self.in_hand is None, "the batch in hand was neither trained nor given up"
        if self._replays:
            self.in_hand = self._replays.pop(0)
        elif (chosen := self._choose()) is not None:
            mode, seqs = chosen
            groups = tuple(self._groups.pop(seq) for seq in seqs)
            self.in_hand = ReadyBatch(self._record(mode, groups), groups, replayed=False)
            self._plans.add(self.in_hand.record.batch)
            self._replaced = 0
        return self.in_hand

    def put_back(self) -> None:
        """The batch in hand will not be trained as it is; its groups are free again."""
        assert self.in_hand is not None
        self._groups.update({group.seq: group for group in self.in_hand.groups})
        self.in_hand = None

    def retire(self, seqs: Iterable[int], reason: str) -> None:
        """Groups that are here will not be trained."""
        for seq in seqs:
            self._retire_held(seq, reason)

    def trained(self) -> None:
        """The batch in hand was trained."""
        assert self.in_hand is not None
        self.ledger.train(self.in_hand.record)
        for group in self.in_hand.groups:
            self._uncommitted.add(self._held.pop(group.seq).entry)
        self.in_hand = None

    def retire_rest(self) -> None:
        """The run is complete: retire all that was issued and is not done, whether it is here or not."""
        for seq in self.outstanding():
            if seq in self._groups:
                self._retire_held(seq, SURPLUS)
            else:
                self.ledger.retire(seq, SURPLUS)

    # --- what is where

    @property
    def ready(self) -> int:
        """Complete groups that wait for training."""
        return len(self._groups) + sum(len(batch.groups) for batch in self._replays)

    def outstanding(self) -> list[int]:
        """Seqs that were issued and are not done, ascending."""
        return [seq for seq in range(self.ledger.lwm, self.cursor) if not self.ledger.known(seq)]

    def known_from(self, low: int) -> set[int]:
        """Seqs from `low` on that are done or here."""
        return self.ledger.known_from(low) | self._held.keys()

    def uncommitted(self) -> tuple[tuple[str, ...], tuple[int, ...]]:
        """Entries and plans that a checkpoint of the ledger, as it is now, covers."""
        plans = tuple(sorted(batch for batch in self._plans if batch <= self.ledger.batches))
        return tuple(sorted(self._uncommitted)), plans

    def committed(self, entries: Iterable[str], plans: Iterable[int]) -> None:
        """The broker has deleted these."""
        self._uncommitted.difference_update(entries)
        self._plans.difference_update(plans)

    # --- inside

    def _decode(self, entry: Entry) -> Group:
        return decode_group(
            entry.header,
            entry.payload,
            max_bytes=self._spec.max_record_bytes,
            vocab_size=self._spec.vocab_size,
            group_size=self._spec.sampling.group_size,
            newest_version=self.newest_version,
        )

    def _retire(self, seq: int, entry: str, reason: str) -> None:
        """The entry stays in the broker until a checkpoint knows that the seq is retired."""
        self.ledger.retire(seq, reason)
        self._uncommitted.add(entry)

    def _retire_held(self, seq: int, reason: str) -> None:
        """Retire a group that waits for training."""
        del self._groups[seq]
        self._retire(seq, self._held.pop(seq).entry, reason)

    def _only_outcome(self, group: Group) -> str | None:
        """What all responses of a group are; None: they differ."""
        correct = {response.reward > self._spec.data.correct_above for response in group.responses}
        return None if len(correct) == 2 else ALL_CORRECT if correct.pop() else NONE_CORRECT

    def _is_stale(self, seq: int) -> bool:
        batches, tokens = self.ledger.batches, self._held[seq].tokens
        if self.mode is Mode.ON_POLICY and seq >= self._strict_from:
            return tokens.keys() != {version_of(self._incarnation, batches)}
        kept = sum(
            count for version, count in tokens.items() if batches - batch_of(version) <= self._rules.token_max_lag
        )
        return kept < self._rules.min_kept * sum(tokens.values())

    def _choose(self) -> tuple[Mode, list[int]] | None:
        """Which groups make the next batch, and the rule they are trained by.

        `async`: the oldest that are here. `on_policy`: the oldest that were issued, so that the batch does not depend
        on what arrives first; but as long as a whole batch from before the switch is out, it goes first, as `async`.
        """
        size = self._spec.prompts_per_batch
        if len(self._groups) < size:
            return None
        here = sorted(self._groups)
        if self.mode is Mode.ASYNC:
            return Mode.ASYNC, here[:size]
        outstanding = self.outstanding()
        before = [seq for seq in outstanding if seq < self._strict_from]
        if len(before) >= size:
            old = [seq for seq in here if seq < self._strict_from]
            return (Mode.ASYNC, old[:size]) if len(old) >= size else None
        first = outstanding[:size]
        if not self._groups.keys() >= set(first):
            return None
        return (Mode.ASYNC if before else Mode.ON_POLICY), first

    def _record(self, mode: Mode, groups: Iterable[Group]) -> PlanRecord:
        return PlanRecord(
            batch=self.ledger.batches + 1,
            mode=mode,
            chain=self.ledger.chain,
            groups=tuple(map(self._planned, groups)),
        )

    def _planned(self, group: Group) -> PlannedGroup:
        return PlannedGroup(group.seq, group.attempt, self._held[group.seq].entry)

    def _fitting(self, blob: bytes, batch: int, chain: str) -> ReadyBatch | None:
        """The batch of a stored plan, its groups taken out of the buffer; None if it does not fit."""
        try:
            record = PlanRecord.model_validate_json(blob)
        except ValidationError:
            return None
        if (record.batch, record.chain) != (batch, chain):
            return None
        groups = [self._groups.get(planned.seq) for planned in record.groups]
        if not all(
            group is not None and self._planned(group) == planned
            for planned, group in zip(record.groups, groups, strict=True)
        ):
            return None
        taken = tuple(self._groups.pop(planned.seq) for planned in record.groups)
        return ReadyBatch(record, taken, replayed=True)


def _trainable(group: Group) -> dict[int, int]:
    """Version -> tokens it generated that are not another's (tools, environment)."""
    tokens: Counter[int] = Counter()
    for response in group.responses:
        versions = response.versions()
        for version in np.unique(versions):
            tokens[int(version)] += int(response.mask[versions == version].sum())
    return dict(tokens)

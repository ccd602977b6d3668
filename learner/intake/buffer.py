"""Groups between the broker and training: which are kept, which are too old, and which make the next batch.

Plain state and rules: no broker, no threads, no clocks. The ledger in it says which seqs are done; everything else here
can be deleted and read again from the broker.
"""

import logging
from collections.abc import Collection, Iterable, Mapping, Sequence
from dataclasses import dataclass

from pydantic import ValidationError

from isentrope.errors import RecordError
from isentrope.learner.intake import failed_groups
from isentrope.learner.intake.admission import AdmissionRules, Held
from isentrope.learner.intake.ledger import Ledger
from isentrope.learner.intake.outcomes import Tally
from isentrope.learner.intake.plan_record import PlannedGroup, PlanRecord
from isentrope.learner.intake.quarantine import Quarantine
from isentrope.learner.intake.retirement import (
    EARLIER,
    OTHER_WEIGHTS,
    QUARANTINE,
    STALE,
    SURPLUS,
    LengthCounts,
    Retired,
    Retirements,
    detail_of,
)
from isentrope.rollout.broker.learner_port import Entry
from isentrope.rollout.wire.codec import decode_group, decode_missing
from isentrope.rollout.wire.control import Mode
from isentrope.rollout.wire.spec import RunSpec
from isentrope.rollout.wire.types import Group, Missing, version_of

logger = logging.getLogger(__name__)


@dataclass(frozen=True, slots=True)
class ReadyBatch:
    """The batch to be trained now: whole groups, ascending by seq."""

    record: PlanRecord
    """Also names the entry that each group came in."""
    groups: tuple[Group, ...]
    replayed: bool
    """True if the plan is that of a learner which died after it; it starts from the present weights."""


class Buffer:
    """The groups that one learner holds. Not thread-safe."""

    def __init__(self, ledger: Ledger, spec: RunSpec, incarnation: int, rules: AdmissionRules, mode: Mode) -> None:
        self.ledger = ledger
        self.mode = mode
        self.cursor = ledger.cursor
        """First seq that was never issued."""
        self._announced: set[int] = set()  # this learner's own versions
        self._newest_version = 0
        self.replaced = Tally()
        """Responses of all groups that were replaced for their outcome."""
        self.outdated: list[str] = []
        """Entries of dropped groups, which the caller must delete: their seqs are lost, and must be made again."""
        self.in_hand: ReadyBatch | None = None
        """The batch that is being trained."""
        self.quarantine = Quarantine()
        self.retirements = Retirements(rules.retirement_limits(spec.prompts_per_batch))
        self.failed = LengthCounts()
        """Responses that failed, by kind, of every group that came or was given up."""
        self.retired_whole = LengthCounts()
        """Responses of the groups that came and were retired, by reason."""
        self._spec = spec
        self._incarnation = incarnation
        self._rules = rules
        self._strict_from = 0
        self._groups: dict[int, Group] = {}
        self._replays: list[ReadyBatch] = []
        self._held: dict[int, Held] = {}  # of every group here, also those in a batch
        self._replaced = 0  # for the current batch
        self._uncommitted: set[str] = set()
        self._retired: set[str] = set()  # those of them whose groups were retired
        self._counted: set[str] = set()  # entries whose failures are in `failed`
        self._plans: set[int] = set()

    @property
    def newest_version(self) -> int:
        """Newest published version; no token can be from a later one."""
        return self._newest_version

    @newest_version.setter
    def newest_version(self, version: int) -> None:
        self._newest_version = version
        self._announced.add(version)

    # --- admission

    def add(self, entry: Entry) -> bool:
        """Add an entry. False: a duplicate, or of an actor in quarantine; the caller must delete it."""
        held = self._held.get(entry.seq)
        if entry.id in self._uncommitted or (held is not None and held.entry == entry.id):
            return True  # read again after the broker changed
        if entry.seq >= self.cursor or self.ledger.known(entry.seq) or held is not None:
            return False
        if self.quarantine.turns_away(entry.actor):
            self.retirements.retired(Retired(entry.seq, QUARANTINE, actor=entry.actor))
            return False
        if entry.kind == "tombstone":
            self._count(entry.id, decode_missing(entry.header))
            return self._take_failed(failed_groups.given_up(entry), entry.id, entry.version in (0, self._present))
        try:
            group = self._decode(entry)
        except RecordError as error:
            refused = failed_groups.invalid(entry, error)
            if self.quarantine.refused(entry.actor, refused.detail):
                logger.warning("%s is in quarantine: no record of it is taken", detail_of(entry.actor))
            self._retire(refused, entry.id)
            return True
        arrived = Held.of(entry.id, group)
        self._count(entry.id, group.missing)
        if len(group.responses) < min(self._spec.sampling.min_group, self._spec.sampling.group_size):
            small = failed_groups.too_small(entry, group.missing)
            return self._take_failed(small, entry.id, arrived.is_made_by(self._present))
        self.retirements.came_in()
        self._groups[entry.seq] = group
        self._held[entry.seq] = arrived
        return True

    def clear(self) -> None:
        """Drop every group that is not being trained: the broker may have lost them, and then a batch with them could
        not be repeated."""
        self._groups.clear()
        self._replays.clear()
        self.outdated.clear()
        training = () if self.in_hand is None else self.in_hand.groups
        self._held = {group.seq: self._held[group.seq] for group in training}

    def queue_replays(self, plans: Mapping[int, bytes]) -> int:
        """Queue the stored plans that follow from the present state without a gap and whose exact entries are here;
        return their number. The others are dropped, and their groups are free again."""
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
            self._retire_skipped(groups.record)
        return len(self._replays)

    def retire_unfit(self) -> int:
        """Retire the groups that will not be trained: stale ones, and those whose outcome has no signal; return their
        number. Planned groups are not judged again. On-policy groups of other weights are dropped, and not retired:
        `outdated` names their entries."""
        held = len(self._groups) + len(self.outdated)
        for seq in sorted(self._groups):
            if self._is_outdated(seq):
                self._make_again(seq, self._held.pop(seq).entry, self._groups.pop(seq).actor)
            elif not self._is_strict(seq) and self._held[seq].is_stale(self.ledger.batches, self._rules):
                self._retire_held(seq, STALE)
        self._retire_one_outcome()
        return held - len(self._groups) - len(self.outdated)

    # --- modes

    def switch(self, mode: Mode) -> None:
        """Choose by `mode` from now on. Groups issued before a switch to `on_policy` are still trained as `async`."""
        if mode is Mode.ON_POLICY and self.mode is Mode.ASYNC:
            self._strict_from = self.cursor
        self.mode = mode

    # --- batches

    def take(self) -> ReadyBatch | None:
        """Return the next batch, which becomes the current one; None: some of its groups are missing."""
        assert self.in_hand is None, "the current batch was neither trained nor released"
        if self._replays:
            self.in_hand = self._replays.pop(0)
        elif (chosen := self._choose()) is not None:
            mode, seqs = chosen
            groups = tuple(self._groups.pop(seq) for seq in seqs)
            self.in_hand = ReadyBatch(self._record(mode, groups), groups, replayed=False)
            self._plans.add(self.in_hand.record.batch)
        if self.in_hand is not None:
            self._replaced, self.ledger.replaced = self.ledger.replaced, 0
        return self.in_hand

    def put_back(self) -> None:
        """Release the current batch, and stored ones that follow from it, without training; their groups are free."""
        assert self.in_hand is not None
        self.ledger.replaced = self._replaced
        released, self._replays, self.in_hand = [self.in_hand, *self._replays], [], None
        self._groups.update({group.seq: group for batch in released for group in batch.groups})

    def retire(self, seqs: Iterable[int], reason: str) -> None:
        """Retire buffered groups."""
        for seq in seqs:
            self._retire_held(seq, reason)

    def trained(self) -> None:
        """Record that the current batch was trained."""
        assert self.in_hand is not None
        self.ledger.train(self.in_hand.record)
        self.retirements.restart()
        for group in self.in_hand.groups:
            self._uncommitted.add(self._held.pop(group.seq).entry)
        self.in_hand = None

    def retire_rest(self) -> None:
        """Retire, at the end of the run, every seq that was issued and is not done, buffered or not."""
        if withdrawn := self.ledger.withdraw():
            text = "%d requeued groups are not trained, as no batch is left: a run that goes on with more trains them"
            logger.warning(text, withdrawn)
        for seq in self.outstanding():
            if seq in self._groups:
                self._retire_held(seq, SURPLUS)
            else:
                self.ledger.retire(seq, SURPLUS)

    # --- state

    @property
    def ready(self) -> int:
        """Complete groups that wait for training."""
        return len(self._groups) + sum(len(batch.groups) for batch in self._replays)

    def outstanding(self) -> list[int]:
        """Return the seqs that were issued and are not done, ascending."""
        return self.ledger.open_below(self.cursor)

    def known_from(self, low: int) -> set[int]:
        """Return the seqs from `low` on that are done or buffered."""
        return self.ledger.known_from(low) | self._held.keys()

    @property
    def entries(self) -> set[str]:
        """Ids of all entries that the broker must keep."""
        return self._uncommitted | {held.entry for held in self._held.values()}

    def uncommitted(self) -> tuple[tuple[str, ...], tuple[int, ...]]:
        """Return the entries and plans that a checkpoint of the present ledger covers."""
        plans = tuple(sorted(batch for batch in self._plans if batch <= self.ledger.batches))
        return tuple(sorted(self._uncommitted)), plans

    def shed(self) -> list[str]:
        """Drop the uncommitted entries of retired groups, which the caller must delete, and return them. Until a
        checkpoint covers them the ledger alone says that these groups are done."""
        shed = sorted(self._retired)
        self.committed(shed, ())
        return shed

    def committed(self, entries: Collection[str], plans: Iterable[int]) -> None:
        """Drop the entries and plans that the broker has deleted."""
        self._uncommitted.difference_update(entries)
        self._retired.difference_update(entries)
        self._counted.difference_update(entries)
        self._plans.difference_update(plans)

    # --- private

    def _decode(self, entry: Entry) -> Group:
        limits = self._spec.limits(group_size=self._spec.sampling.group_size, newest_version=self.newest_version)
        group = decode_group(entry.header, entry.payload, max_bytes=self._spec.max_record_bytes, limits=limits)
        if self._rules.check is not None:
            self._rules.check.group(group, self._incarnation, self._announced)
        return group

    def _take_failed(self, group: Retired, entry: str, present: bool) -> bool:
        """Retire a group that was not made whole, or have it made again: on-policy other weights prove nothing."""
        if present or not self._is_strict(group.seq):
            self._retire(group, entry)
        else:
            self._make_again(group.seq, entry, group.actor)
        return True

    def _count(self, entry: str, missing: Sequence[Missing]) -> None:
        """Count the responses that an entry lacks, once: it is read again when the broker has changed."""
        if missing and entry not in self._counted:
            self._counted.add(entry)
            for each in missing:
                self.failed.add(each.reason.word, [each.tokens])

    def _retire(self, group: Retired, entry: str) -> None:
        """Retire a seq; its entry stays in the broker until a checkpoint covers it."""
        self.ledger.retire(group.seq, group.reason)
        self._uncommitted.add(entry)
        self._retired.add(entry)
        if group.reason != SURPLUS:
            self.retirements.retired(group)

    def _retire_held(self, seq: int, reason: str) -> None:
        """Retire a group that waits for training."""
        group = self._groups.pop(seq)
        self.retired_whole.add(reason, (len(response.tokens) for response in group.responses))
        self._retire(Retired(seq, reason, actor=group.actor), self._held.pop(seq).entry)

    def _retire_skipped(self, plan: PlanRecord) -> None:
        """Retire what the learner before had retired when it made an on-policy plan: that takes the oldest groups, so
        it skips no others."""
        if plan.mode is Mode.ASYNC:
            return
        for seq in sorted(set(self.outstanding()) - self.ledger.requeued):
            if seq in self._groups and seq < plan.groups[-1].seq:
                self._retire_held(seq, self._rules.outcome.reason(self._groups[seq]) or EARLIER)
            elif seq not in self._held and seq < plan.groups[-1].seq:
                self.ledger.retire(seq, EARLIER)

    @property
    def _present(self) -> int:
        """The present weights: another learner's version of the same batch is another."""
        return version_of(self._incarnation, self.ledger.batches)

    def _is_outdated(self, seq: int) -> bool:
        """Return True if an on-policy group has tokens of other weights than the present ones, or may have."""
        return self._is_strict(seq) and not self._held[seq].is_made_by(self._present)

    def _is_strict(self, seq: int) -> bool:
        return self.mode is Mode.ON_POLICY and seq >= self._strict_from

    def _make_again(self, seq: int, entry: str, actor: str) -> None:
        """Drop what other weights than the present ones have made, or given up: its seq must be made again."""
        self.outdated.append(entry)
        self.retirements.retired(Retired(seq, OTHER_WEIGHTS, actor=actor))

    def _retire_one_outcome(self) -> None:
        """Retire the groups of one outcome, as many as a batch may replace.

        On-policy, which ones they are must not depend on the order of arrival: a group is judged as if all smaller seqs
        had been, so it waits for those whose outcome could still take its place. Nor must it depend on what an earlier
        learner had issued: a group of a later batch is not judged.
        """
        limit, undecided, strict = self._rules.max_replaced, 0, self.mode is Mode.ON_POLICY
        if strict and self._replays:
            return
        for seq in self.outstanding() if strict else sorted(self._groups):
            if strict and seq >= (self.ledger.batches + 1) * self._spec.prompts_per_batch + self.ledger.retired:
                return
            group = self._groups.get(seq)
            if group is None:
                undecided += seq not in self._held
            elif self.ledger.replaced < limit and (reason := self._rules.outcome.reason(group)):
                if self.ledger.replaced + undecided >= limit:
                    undecided += 1
                    continue
                self._retire_held(seq, reason)
                self.replaced += self._rules.outcome.tally(group)
                self.ledger.replaced += 1
                if self.ledger.replaced == limit:
                    logger.warning("%d groups had one outcome each: the batch takes further ones", limit)

    def _choose(self) -> tuple[Mode, list[int]] | None:
        """Return the seqs of the next batch, and the mode it is trained by.

        `async`: the oldest buffered groups. `on_policy`: the oldest issued ones, so that the batch does not depend on
        which arrives first; but a whole batch issued before the switch is trained first, as `async`.
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
        planned = tuple(map(self._planned, groups))
        return PlanRecord(batch=self.ledger.batches + 1, mode=mode, chain=self.ledger.chain, groups=planned)

    def _planned(self, group: Group) -> PlannedGroup:
        return PlannedGroup(group.seq, group.attempt, self._held[group.seq].entry)

    def _fitting(self, blob: bytes, batch: int, chain: str) -> ReadyBatch | None:
        """Return the batch of a stored plan, its groups taken out of the buffer; None if it does not fit."""
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

"""The feeder while processes die: a learner at every moment, the broker with its state, an older one, or none.

The broker is a real server that the tests kill, restart and roll back; a dead learner is one whose feeder was stopped
and whose memory is gone.
"""

import os
import random
import shutil
import signal
from collections.abc import Iterator
from pathlib import Path
from threading import Event
from typing import Any

import pytest
from feeding import Actor, Learner, P, Run, assert_exactly_once, finish, running, seqs
from waits import DEADLINE_S, wait_until
from wire_records import answer

from isentrope.errors import FencedError
from isentrope.learner.intake.plan_record import PlanRecord
from isentrope.redis_server import RedisServer
from isentrope.rollout.broker.actor_port import PublishResult
from isentrope.rollout.broker.keys import LEARNER
from isentrope.rollout.wire.codec import encode_group
from isentrope.rollout.wire.control import Mode
from isentrope.rollout.wire.types import version_of

V0, V1 = version_of(1, 0), version_of(1, 1)


class Server:
    """A broker that can be killed, and come back with an older state."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        self.server = RedisServer(fsync="always")
        self.url = self.server.start(folder)
        self.saved = folder.with_name("saved")
        self.save()

    def save(self) -> None:
        """Remember the present state for `roll_back`."""
        shutil.rmtree(self.saved, ignore_errors=True)
        shutil.copytree(self.folder, self.saved, ignore=shutil.ignore_patterns("*.lock", "*.log"))

    def kill(self) -> None:
        os.kill(self.server.pid, signal.SIGKILL)
        wait_until(lambda: self.server.pid == 0, "the end of the broker")

    def restart(self) -> None:
        self.kill()
        self.server.restart()

    def roll_back(self) -> None:
        """Come back with the saved state."""
        self.kill()
        self._delete()
        shutil.copytree(self.saved, self.folder, dirs_exist_ok=True)
        self.server.restart()

    def lose_all(self) -> None:
        """Come back with nothing."""
        self.kill()
        self._delete()
        self.server.restart()

    def _delete(self) -> None:
        for data in self.folder.glob("appendonly*"):
            shutil.rmtree(data) if data.is_dir() else data.unlink()


@pytest.fixture
def server(tmp_path: Path) -> Iterator[Server]:
    server = Server(tmp_path / "redis")
    yield server
    server.server.stop()


@pytest.fixture
def run(server: Server) -> Iterator[Run]:
    with running(server.url, "faults") as run:
        yield run


def out_of_order(learner: Learner, actor: Actor) -> list[list[int]]:
    """Train two batches that another learner would not choose: the first group comes last. Returns their seqs."""
    late, *orders = actor.take(2 * P)
    for order in orders:
        actor.publish(order, V0)
    learner.settle(2 * P - 1)
    learner.train(learner.next())
    actor.work(1, V1)
    learner.settle(P)
    learner.train(learner.next())
    actor.publish(late, V0)
    return learner.lineage


# --- the learner dies


def test_groups_survive_a_learner_that_dies_before_its_plan(run: Run) -> None:
    learner, actor = run.learner(), run.actor()
    actor.work(2 * P, V0)
    learner.settle(2 * P)
    run.kill(learner)
    after = run.learner()
    assert seqs(after.next()) == [0, 1, 2, 3]
    assert actor.port.view.counters().get("reissued", 0) == 0


def test_a_plan_is_repeated_by_the_next_learner(run: Run) -> None:
    learner, actor = run.learner(), run.actor()
    late, *orders = actor.take(P + 1)
    for order in orders:
        actor.publish(order, V0)
    planned = learner.next()
    run.kill(learner)
    actor.publish(late, V0)
    after = run.learner()
    batch = after.next()
    assert batch.replayed
    assert batch.record == planned.record
    assert [group.seq for group in batch.groups] == [1, 2, 3, 4]


def test_all_batches_since_the_checkpoint_are_repeated_with_the_same_groups(run: Run) -> None:
    learner, actor = run.learner(), run.actor()
    lineage = out_of_order(learner, actor)
    assert 0 not in lineage[0] + lineage[1]
    run.kill(learner)
    after = run.learner()
    for _ in lineage:
        batch = after.next()
        assert batch.replayed
        after.train(batch)
    assert after.lineage == lineage
    assert after.ledger.chain == learner.ledger.chain
    finish(after, actor, run.batches)
    assert_exactly_once(run, after)


def test_only_batches_after_the_checkpoint_are_repeated(run: Run) -> None:
    learner, actor = run.learner(), run.actor()
    actor.work(2 * P, V0)
    learner.train(learner.next())
    run.save(learner)
    learner.train(learner.next())
    run.kill(learner)
    after = run.learner()
    batch = after.next()
    assert batch.replayed and batch.record.batch == 2
    after.train(batch)
    assert after.lineage == learner.lineage


def test_a_plan_whose_group_is_gone_is_void_and_so_are_the_later_ones(run: Run) -> None:
    """The next learner then finds a group good that the first one had retired and replaced: one too many is out."""
    learner, actor = run.learner(), run.actor()
    lineage = out_of_order(learner, actor)
    learner.retired(stale=1)
    wait_until(lambda: actor.port.view.cursor() == run.batches * P + 1, "an order that replaces the stale one")
    record = PlanRecord.model_validate_json(learner.port.plans()[1])
    run.kill(learner)
    learner.port.drop(learner.port.fetch([record.groups[0].entry]))
    after = run.learner()
    assert not after.next().replayed
    after.feeder.give_up([], "")
    assert actor.port.view.counters()["reissued"] == 1
    finish(after, actor, run.batches)
    assert after.lineage[: len(lineage)] != lineage
    assert after.feeder.status().retired == {"surplus": 1}
    assert_exactly_once(run, after)


def test_a_plan_of_another_history_is_void(run: Run) -> None:
    learner, actor = run.learner(), run.actor()
    actor.work(2 * P, V0)
    batch = learner.next()
    learner.port.plan(1, batch.record.model_copy(update={"chain": "another"}).encode())
    run.kill(learner)
    assert not run.learner().next().replayed


def test_entries_of_a_checkpoint_whose_commit_was_cut_off_are_deleted(run: Run) -> None:
    learner, actor = run.learner(), run.actor()
    actor.work(P, V0)
    learner.train(learner.next())
    run.save(learner, commit=False)
    run.kill(learner)
    after = run.learner()
    assert actor.port.view.queues()["uncommitted"] == 0
    assert after.feeder.status().trained == P
    finish(after, actor, run.batches)
    assert_exactly_once(run, after)


def test_what_was_retired_after_the_checkpoint_is_judged_again(run: Run) -> None:
    learner, actor = run.learner(), run.actor()
    late, *orders = actor.take(2 * P)
    for order in orders:
        actor.publish(order, V0)
    learner.train(learner.next())
    actor.work(P, V1)
    learner.train(learner.next())
    actor.publish(late, V0)
    learner.retired(stale=1)
    run.kill(learner)
    after = run.learner()
    finish(after, actor, run.batches)
    assert_exactly_once(run, after)


def test_on_policy_has_groups_of_an_abandoned_lineage_made_again_unless_they_were_planned(run: Run) -> None:
    learner, actor = run.learner(Mode.ON_POLICY), run.actor()
    actor.work(P, V0)
    learner.train(learner.next())
    actor.work(2, V1)
    learner.settle(2)
    run.kill(learner)
    after = run.learner(Mode.ON_POLICY)
    batch = after.next()
    assert batch.replayed
    after.train(batch)
    finish(after, actor, run.batches)
    assert after.lineage == [list(range(batch * P, (batch + 1) * P)) for batch in range(run.batches)]
    assert after.feeder.status().retired == {}
    assert_exactly_once(run, after)


# --- the broker comes back


def test_a_broker_that_comes_back_with_its_state_costs_nothing(run: Run, server: Server) -> None:
    learner, actor = run.learner(), run.actor()
    actor.work(2 * P, V0)
    learner.settle(2 * P)
    server.restart()
    for _ in range(2):
        learner.train(learner.next())
    assert learner.lineage == [[0, 1, 2, 3], [4, 5, 6, 7]]
    assert actor.port.view.counters().get("reissued", 0) == 0
    finish(learner, actor, run.batches)
    assert_exactly_once(run, learner)


@pytest.mark.parametrize("trained", [True, False])
def test_meeting_a_broker_again_leaves_what_a_later_learner_needs(run: Run, server: Server, trained: bool) -> None:
    learner, actor = run.learner(), run.actor()
    actor.work(P, V0)
    batch = learner.next()
    if trained:
        learner.train(batch)
    server.restart()
    learner.feeder.counters()
    run.kill(learner)
    again = run.learner().next()
    assert again.replayed and again.record == batch.record


def test_what_an_older_state_lacks_is_generated_again(run: Run, server: Server) -> None:
    learner, actor = run.learner(), run.actor()
    orders = actor.take(2 * P)
    server.save()
    for order in orders:
        actor.publish(order, V0)
    learner.settle(2 * P)
    server.roll_back()
    learner.settle(0)  # a group that is only in memory must not be trained
    for order in orders:
        assert actor.publish(order, V0) is PublishResult.DONE
    finish(learner, actor, run.batches)
    assert_exactly_once(run, learner)


def test_what_was_trained_is_not_trained_again_when_it_reappears(run: Run, server: Server) -> None:
    learner, actor = run.learner(), run.actor()
    actor.work(2 * P, V0)
    learner.settle(2 * P)
    server.save()
    learner.train(learner.next())
    run.save(learner)
    server.roll_back()
    wait_until(lambda: actor.port.view.queues()["uncommitted"] == P, "the end of what was trained")
    finish(learner, actor, run.batches)
    assert_exactly_once(run, learner)


def test_a_batch_in_hand_is_finished_and_not_issued_again(run: Run, server: Server) -> None:
    learner, actor = run.learner(), run.actor()
    server.save()
    actor.work(P, V0)
    batch = learner.next()
    server.roll_back()
    learner.train(batch)
    finish(learner, actor, run.batches)
    assert learner.lineage[0] == [0, 1, 2, 3]
    assert_exactly_once(run, learner)


@pytest.mark.parametrize("crash", [False, True])
def test_a_broker_that_lost_everything_is_filled_again(run: Run, server: Server, crash: bool) -> None:
    learner, actor = run.learner(), run.actor()
    actor.work(2 * P, V0)
    learner.train(learner.next())
    run.save(learner)
    batch = learner.next()
    server.lose_all()
    wait_until(
        lambda: actor.port.view.counters().get("reissued") == P,
        f"{P} orders again, neither of groups that were trained nor of those in hand",
    )
    if crash:
        run.kill(learner)
        learner = run.learner()
    else:
        learner.train(batch)
    finish(learner, run.actor("a2"), run.batches)
    assert_exactly_once(run, learner)


def test_what_is_asked_for_and_shown_is_repeated_to_a_broker_that_lost_everything(run: Run, server: Server) -> None:
    """As of the learner's last heartbeat: whoever asks later has to wait for an answer."""
    learner, actor = run.learner(), run.actor()
    view = actor.port.view
    actor.work(P, V0)
    learner.train(learner.next())
    run.save(learner)
    learner.feeder.call(lambda port: port.show("numbers"))
    wanted, asked = view.want(3), view.request("on_policy")
    view.requeue(["1-1-00000000.5"])

    def beats() -> int:
        return state.beat if (state := view.learner()) is not None else 0

    before = beats()
    wait_until(lambda: beats() >= before + 2, "a heartbeat that began after this")
    server.lose_all()
    wait_until(lambda: view.desired() == wanted, "the wanted number")
    control = learner.feeder.control()
    assert (control.request, control.requested_mode) == (asked, Mode.ON_POLICY)
    assert view.requeues() == ["1-1-00000000.5"]
    assert (view.checkpoint(), view.metrics()) == ("batch 1", "numbers")


def test_a_learner_that_was_replaced_does_not_trust_a_broker_that_forgot_its_successor(
    run: Run, server: Server
) -> None:
    old = run.learner()
    server.save()
    run.claims += 1  # the successor claimed its number, and the broker forgot it
    server.roll_back()
    with pytest.raises(FencedError, match="learner 2 took over"):
        old.feeder.next_batch(DEADLINE_S)


def test_a_broker_killed_during_the_commit_is_committed_again(run: Run, server: Server) -> None:
    learner, actor = run.learner(), run.actor()
    server.save()
    actor.work(P, V0)
    learner.train(learner.next())
    facts = learner.feeder.commit_facts()
    server.roll_back()
    learner.feeder.commit(facts, "batch 1")
    assert learner.port.view.checkpoint() == "batch 1"
    finish(learner, actor, run.batches)
    assert_exactly_once(run, learner)


def test_an_entry_whose_reply_was_lost_is_found(run: Run) -> None:
    learner, actor = run.learner(), run.actor()
    header, payload = encode_group(answer(actor.take(1)[0], version=V0))
    traj = actor.port.broker.keys.traj

    def publish_and_lose(client: Any) -> None:
        with client.pipeline(transaction=True) as both:  # or the feeder's own read would get it
            both.xadd(traj, {**header, "payload": payload})
            both.xreadgroup(LEARNER, LEARNER, {traj: ">"})
            both.execute()

    actor.port.broker.run(publish_and_lose)
    learner.settle(1)


@pytest.mark.soak
def test_a_broker_that_stands_still_for_longer_than_any_single_wait_costs_nothing(run: Run, server: Server) -> None:
    learner, actor = run.learner(), run.actor()
    actor.work(2 * P, V0)
    os.kill(server.server.pid, signal.SIGSTOP)
    Event().wait(35.0)
    os.kill(server.server.pid, signal.SIGCONT)
    for _ in range(2):
        learner.train(learner.next())
    finish(learner, actor, run.batches)
    assert_exactly_once(run, learner)


# --- everything at once


@pytest.mark.slow
@pytest.mark.parametrize("seed", range(6))
def test_random_faults_leave_every_group_trained_once_or_retired(server: Server, seed: int) -> None:
    dice = random.Random(seed)
    mode = dice.choice(list(Mode))
    with running(server.url, "faults", batches=8) as run:
        learner, actor = run.learner(mode), run.actor()
        while learner.ledger.batches < run.batches:
            for _ in range(dice.randint(2, 8)):
                progress(run, learner, actor, dice)
            if learner.ledger.batches == run.batches:
                break
            learner = fault(run, learner, server, dice)
            if dice.random() < 0.3:
                mode = dice.choice(list(Mode))
                learner.feeder.set_control(run.control(mode))
        assert_exactly_once(run, learner)


def progress(run: Run, learner: Learner, actor: Actor, dice: random.Random) -> None:
    for order in actor.port.take(dice.randint(1, P), 0.05):
        if dice.random() < 0.05:
            actor.port.fail(order, "reward", "raised")
        elif dice.random() < 0.95:
            actor.publish(order, learner.version)
        else:
            actor.port.hand_back([order])
    if learner.ledger.batches < run.batches and (batch := learner.feeder.next_batch(0.05)) is not None:
        learner.train(batch)
        if dice.random() < 0.4:
            run.save(learner, commit=dice.random() < 0.7)


def fault(run: Run, learner: Learner, server: Server, dice: random.Random) -> Learner:
    kind = dice.choice(["restart", "roll_back", "lose_all", "save", "learner", "learner", "both"])
    if kind == "save":
        server.save()
    if kind == "restart":
        server.restart()
    if kind in ("learner", "both"):
        run.kill(learner)
    if kind in ("roll_back", "both"):
        server.roll_back()
    if kind == "lose_all":
        server.lose_all()
    return run.learner(learner.feeder._buffer.mode) if kind in ("learner", "both") else learner

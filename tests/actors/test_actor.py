"""An actor's life on a real engine, real rewards and a real broker, with a learner played by the test."""

import asyncio
import math
from pathlib import Path

import numpy as np
import pytest
from acting import CONTROL, Play, Start
from tiny_model import Version
from waits import DEADLINE_S, until

from isentrope.actors.actor import LeasesLost
from isentrope.actors.config import ActorsConfig
from isentrope.errors import RewardError, StorageError
from isentrope.redis_server import RedisServer
from isentrope.rollout.broker.run_view import ActorStage, ActorState
from isentrope.rollout.data.prompts import PromptTooLongError
from isentrope.rollout.wire.control import RunState
from isentrope.rollout.wire.seeds import eval_seed, sampling_seed
from isentrope.rollout.wire.types import EvalOrder, Group, version_of

pytestmark = pytest.mark.slow


def _labels(groups: list[Group]) -> set[int]:
    """Versions of all tokens."""
    return {int(version) for group in groups for response in group.responses for version in response.span_version}


def test_every_order_becomes_one_group_while_versions_change(start: Start, play: Play, versions: list[Version]) -> None:
    run = start()
    count = 96

    async def scenario() -> None:
        run.learner.announce(versions[0].manifest)
        run.issue(count // 2)
        async with run.actor():
            groups = await run.groups(count // 2)
            run.learner.announce(versions[1].manifest)
            run.issue(count, batch=1)
            await run.until(lambda states: states["a1"].version == versions[1].manifest.version)
            groups += await run.groups(count // 2)
            state = run.states()["a1"]
            assert (state.state, state.digest) == (ActorStage.SERVING, versions[1].manifest.digest)
        assert sorted(group.seq for group in groups) == list(range(count))
        for group in groups:
            least = versions[group.seq // (count // 2)].manifest.version
            for index, response in enumerate(group.responses):
                assert response.seed == sampling_seed(run.spec.seed, group.seq, 0, index)
                assert response.reward == (response.tokens > 2).sum()  # a word for each but the special tokens
                assert (response.span_version >= least).all()
        for group in groups[:: count // 8]:
            for response in group.responses:
                known = {v.manifest.version: v.logp(group.prompt, response.tokens) for v in versions[:2]}
                expected = [known[int(label)][t] for t, label in enumerate(response.versions())]
                np.testing.assert_allclose(response.logp_rollout, expected, atol=1e-4)
        assert (run.leases(), run.states()) == (0, {})

    play(scenario())


def test_a_run_of_the_same_seed_makes_the_same_groups(start: Start, play: Play, versions: list[Version]) -> None:
    run = start()

    async def once() -> list[bytes]:
        run.learner.reconcile([])
        async with run.actor():
            entries = await run.entries(16)
        run.learner.drop(entries)
        return [
            b"".join(r.tokens.tobytes() for r in run.decode(e).responses) for e in sorted(entries, key=lambda e: e.seq)
        ]

    async def scenario() -> None:
        run.learner.announce(versions[0].manifest)
        run.issue(16)
        assert await once() == await once()

    play(scenario())


def test_an_evaluation_is_finished_before_its_version_is_left(
    start: Start, play: Play, versions: list[Version]
) -> None:
    """While two orders are held, the actor sees the new version, as it comes for the third only after that."""
    run = start()
    old, new = versions[0].manifest, versions[1].manifest
    orders = [EvalOrder("heldout", index, old.version, 48, "") for index in range(4)]

    async def scenario() -> None:
        run.maker.hold()
        run.learner.announce(old)
        async with run.actor():
            run.learner.issue_eval(orders[:2])
            await run.leased_evals(2)
            run.learner.announce(new)
            run.issue(8)
            for taken, order in enumerate(orders[2:], 3):
                run.learner.issue_eval([order])
                await run.leased_evals(taken)
            run.maker.let()
            groups = await run.groups(8)
            results = await run.results(4)
        assert {r.group.seq for r in results} == {0, 1, 2, 3}
        for result in results:
            assert len(result.group.responses) == 48
            for sample, response in enumerate(result.group.responses):
                assert set(response.span_version.tolist()) == {old.version}
                assert response.seed == eval_seed(run.spec.seed, "heldout", result.group.seq, sample)
        assert _labels(groups) == {new.version}

    play(scenario())


def test_an_evaluation_of_an_older_version_is_made_up_for_if_its_files_are_there(
    start: Start, play: Play, versions: list[Version]
) -> None:
    run = start()
    old, new = versions[0].manifest, versions[1].manifest
    gone = version_of(1, 0) - 1

    async def scenario() -> None:
        run.learner.announce(new)
        async with run.actor():
            await run.until(lambda states: "a1" in states and states["a1"].version == new.version)
            wanted = [EvalOrder("heldout", 0, gone, 4, ""), EvalOrder("heldout", 1, old.version, 4, "")]
            run.learner.issue_eval(wanted)
            results = {result.group.seq: result for result in await run.results(2)}
            assert results[0].group.responses == ()
            assert _labels([results[1].group]) == {old.version}
            run.issue(4)
            groups = await run.groups(4)
        assert _labels(groups) == {new.version}

    play(scenario())


def test_an_order_waits_for_the_version_it_asks_for(start: Start, play: Play, versions: list[Version]) -> None:
    """It was issued when its version was announced, which the actor has not seen yet."""
    run = start()
    old, new = versions[0].manifest, versions[1].manifest

    async def scenario() -> None:
        run.learner.announce(new)
        run.learner.broker.run(lambda client: client.set(run.learner.broker.keys.weights, old.model_dump_json()))
        run.issue(4, batch=1)
        async with run.actor():
            await run.leased(4)
            run.learner.issue_eval([EvalOrder("heldout", 0, old.version, 4, "")])
            await run.results(1)  # what may be generated is, meanwhile
            assert (run.states()["a1"].version, run.learner.view.queues()["unread"]) == (old.version, 0)
            run.learner.announce(new)
            groups = await run.groups(4)
        assert _labels(groups) == {new.version}

    play(scenario())


def test_weights_that_cannot_be_loaded_are_tried_again(
    start: Start, play: Play, versions: list[Version], monkeypatch: pytest.MonkeyPatch
) -> None:
    run = start()
    monkeypatch.setattr("isentrope.actors.actor.LOAD_TRIES", math.inf)
    old, new = versions[0].manifest, versions[1].manifest
    file = Path(new.folder, new.shards[0].file)

    async def scenario() -> None:
        run.learner.announce(old)
        async with run.actor():
            await run.until(lambda states: "a1" in states and states["a1"].version == old.version)
            file.rename(file.with_suffix(".away"))
            try:
                run.learner.announce(new)
                run.issue(4, batch=1)
                await run.until(lambda states: states["a1"].state is ActorStage.DIRTY)
                assert run.states()["a1"].last_error
                assert run.learner.view.queues()["unread"] == 0
            finally:
                file.with_suffix(".away").rename(file)
            groups = await run.groups(4)
        assert _labels(groups) == {new.version}

    play(scenario())


def test_weights_that_stay_damaged_end_the_actor(
    start: Start, play: Play, versions: list[Version], monkeypatch: pytest.MonkeyPatch
) -> None:
    run = start()
    monkeypatch.setattr("isentrope.actors.actor.LOAD_PAUSE_S", 0.05)
    damaged = versions[1].manifest.model_copy(update={"dtype": "float16"})

    async def scenario() -> None:
        run.learner.announce(damaged)
        async with run.actor() as life:
            await asyncio.wait({life}, timeout=DEADLINE_S)

    with pytest.raises(StorageError, match="digest"):
        play(scenario())


@pytest.mark.parametrize("asked", ["by a signal", "by the broker"])
def test_draining_finishes_what_is_held_and_hands_back_the_rest(
    start: Start, play: Play, versions: list[Version], asked: str
) -> None:
    run = start()
    run.config = ActorsConfig(max_concurrent_groups=4, drain_s=4 * DEADLINE_S)

    async def scenario() -> None:
        run.maker.hold()
        run.learner.announce(versions[0].manifest)
        run.issue(64)
        async with run.actor() as life:
            await until(lambda: run.maker.held == 4, "four orders that the actor has begun, not only leased")
            if asked == "by a signal":
                run.drain.set()
            else:
                run.learner.view.ask_to_leave(["a1"], 4 * DEADLINE_S)
            await run.until(lambda states: states["a1"].state is ActorStage.DRAINING)
            run.maker.let()
            await life
        assert run.learner.view.leaving() == {}
        queues = run.learner.view.queues()
        assert (queues["unread"], queues["waiting"], queues["leased"], run.states()) == (4, 60, 0, {})

    play(scenario())


def test_the_end_of_the_run_ends_the_actor_at_once(start: Start, play: Play, versions: list[Version]) -> None:
    """It would have to wait for ever for what it holds."""
    run = start()

    async def scenario() -> None:
        run.maker.hold()
        run.learner.announce(versions[0].manifest)
        run.issue(64)
        async with run.actor() as life:
            await run.until(lambda states: "a1" in states and run.leases() > 0)
            run.learner.set_control(CONTROL.model_copy(update={"state": RunState.STOP}))
            await life
        assert (run.leases(), run.states()) == (0, {})

    play(scenario())


def test_an_actor_whose_leases_were_taken_does_not_go_on(start: Start, play: Play, versions: list[Version]) -> None:
    run = start()
    keys, broker = run.learner.broker.keys, run.learner.broker

    def reap() -> bool:
        record = broker.run(lambda client: client.hget(keys.actors, "a1"))
        return int(broker.call("reap", "a1", record, 5)) >= 0

    async def scenario() -> None:
        run.maker.hold()
        run.learner.announce(versions[0].manifest)
        run.issue(64)
        async with run.actor() as life:
            await run.until(lambda states: "a1" in states and run.leases() > 0)
            await until(reap, "a record that stands still for a moment, as it moves with every heartbeat")
            await asyncio.wait({life}, timeout=DEADLINE_S)
        assert life.done()

    with pytest.raises(LeasesLost):
        play(scenario())
    assert (run.leases(), run.states()) == (0, {})  # nor does it keep what it was taking just then


def test_an_actor_whose_id_another_process_has_taken_goes_on_under_a_new_one(
    start: Start, play: Play, versions: list[Version]
) -> None:
    """One that was stopped for too long, or any record that a hostile actor has written: it ends nobody."""
    run = start()
    keys, broker = run.learner.broker.keys, run.learner.broker
    record = ActorState(id="a1", boot="another", beat=9).model_dump_json()

    async def scenario() -> None:
        run.learner.announce(versions[0].manifest)
        async with run.actor() as life:
            await run.until(lambda states: "a1" in states)
            broker.run(lambda client: client.hset(keys.actors, "a1", record))
            await asyncio.wait({life}, timeout=DEADLINE_S)
        assert life.done()

    with pytest.raises(LeasesLost):
        play(scenario())
    assert run.states().keys() == {"a1"}, "the record is another's, and stays"


def test_a_full_broker_is_waited_for_and_nothing_is_lost(
    start: Start, play: Play, versions: list[Version], tmp_path: Path
) -> None:
    """A group that is refused shows that there is no room: the others find none either, and no more are taken."""
    with RedisServer() as server:
        run = start(url=server.start(tmp_path / "redis"))
        run.config = ActorsConfig(max_concurrent_groups=4, drain_s=DEADLINE_S)

        def limit(max_memory: int) -> None:
            run.learner.broker.run(lambda client: client.config_set("maxmemory", max_memory))

        async def scenario() -> None:
            run.maker.hold()
            run.issue(32)
            run.learner.announce(versions[0].manifest)
            async with run.actor():
                await run.leased(4)
                limit(1)
                run.maker.let(1)
                await run.refused(1)
                run.maker.let()
                await run.refused(20)
                assert run.states()["a1"].state is ActorStage.SERVING  # it still shows that it lives
                assert run.leases() in (4, 5)  # one may have been taken before the first was refused
                limit(0)
                seqs = [entry.seq for entry in await run.entries(32)]
            assert len(set(seqs)) == 32

        play(scenario())


def test_a_reward_that_fails_for_one_prompt_retires_its_group_alone(
    start: Start, play: Play, versions: list[Version]
) -> None:
    run = start(data={"train": "faulty.jsonl"})

    async def scenario() -> None:
        run.learner.announce(versions[0].manifest)
        run.issue(8)
        async with run.actor():
            entries = await run.entries(8)
        graves = [entry for entry in entries if entry.kind == "tombstone"]
        assert [(entry.reason, "as the row wants it" in entry.detail) for entry in graves] == [("reward", True)]

    play(scenario())


def test_a_reward_that_always_fails_ends_the_actor(start: Start, play: Play, versions: list[Version]) -> None:
    run = start(data={"train": "broken.jsonl"}, sampling={"max_new_tokens": 1})

    async def scenario() -> None:
        run.learner.announce(versions[0].manifest)
        run.issue(200)
        async with run.actor() as life:
            await asyncio.wait({life}, timeout=DEADLINE_S)

    with pytest.raises(RewardError, match="as the row wants it"):
        play(scenario())
    assert run.learner.view.queues()["uncommitted"] < 20


@pytest.mark.parametrize("policy", ["skip", "error"])
def test_a_prompt_that_is_too_long(start: Start, play: Play, versions: list[Version], policy: str) -> None:
    run = start(data={"train": "mixed.jsonl", "too_long": policy})

    async def scenario() -> None:
        run.learner.announce(versions[0].manifest)
        run.issue(4)
        async with run.actor() as life:
            if policy == "error":
                await asyncio.wait({life}, timeout=DEADLINE_S)
                return
            entries = await run.entries(4)
        assert [entry.reason for entry in entries if entry.kind == "tombstone"] == ["too_long"]

    if policy == "error":
        with pytest.raises(PromptTooLongError, match="601 tokens"):
            play(scenario())
    else:
        play(scenario())

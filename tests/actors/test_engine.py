"""The engine on a real vLLM with a tiny model: labels, log-probabilities, determinism, swaps, damage, death."""

import asyncio
import gc
import random
from collections.abc import Iterator
from pathlib import Path
from types import SimpleNamespace
from typing import TYPE_CHECKING, Any, cast
from unittest.mock import Mock, create_autospec

import numpy as np
import psutil
import pytest
from tiny_model import VOCABULARY, Version, publish
from waits import DEADLINE_S, is_alive, until

from isentrope.errors import ConfigError, StorageError, UnreachableError
from isentrope.rollout.wire.proof import TensorFacts
from isentrope.rollout.wire.tensor_bits import bits_of
from isentrope.rollout.wire.types import Int32
from isentrope.rollout.wire.weights import Manifest, make_manifest, shard_of

if TYPE_CHECKING:
    from isentrope.actors.engine import Engine, Sample

pytestmark = pytest.mark.slow

LOGP_TOLERANCE = 1e-4
CACHE_GIB = 0.001
"""Key-value cache for nine pages of 128 tokens of the tiny model."""
PROMPT = np.array([1, 10, 43, 5, 44, 16, 37, 24, 45], np.int32)


async def _generate(engine: "Engine", prompt: Int32, seeds: list[int], max_tokens: int = 13) -> "list[Sample]":
    samples = await engine.generate(prompt, seeds, max_tokens=max_tokens, temperature=1.0)
    assert None not in samples
    return [sample for sample in samples if sample is not None]


class _Supply:
    """Requests without end: each that finishes is followed by another, so at any moment some are in the making."""

    def __init__(self, engine: "Engine", together: int, max_tokens: int) -> None:
        self.samples: list[Sample] = []
        self._engine = engine
        self._max_tokens = max_tokens
        self._stopped = False
        self._slots = [asyncio.create_task(self._fill(slot, together)) for slot in range(together)]

    @property
    def unfinished(self) -> int:
        """How many requests are in the making."""
        return sum(not slot.done() for slot in self._slots)

    async def finished(self, count: int) -> None:
        """Wait until so many have come to their end, since the beginning."""
        await until(lambda: len(self.samples) >= count or not self.unfinished, f"{count} responses")

    async def rest(self) -> "list[Sample]":
        """Begin no more; all samples, once the last has come to its end. Raises what a request has raised."""
        self._stopped = True
        await asyncio.gather(*self._slots)
        return self.samples

    async def cancel(self) -> None:
        """Give all of them up in the middle."""
        for slot in self._slots:
            slot.cancel()
        await asyncio.wait(self._slots)
        assert all(slot.cancelled() for slot in self._slots)

    async def _fill(self, slot: int, together: int) -> None:
        seed = slot
        while not self._stopped:
            self.samples += await _generate(self._engine, PROMPT, [seed], self._max_tokens)
            seed += together


class _Stuck:
    """What an engine calls of vLLM, which answers a pause only if it is told to."""

    errored = False
    model_config = SimpleNamespace(model="stuck")

    def __init__(self) -> None:
        from vllm.v1.engine.utils import CoreEngineProcManager

        self.asked, self.may_pause, self.probed = asyncio.Event(), asyncio.Event(), asyncio.Event()
        self.engine_core = Mock()
        self.engine_core.resources.engine_manager = create_autospec(CoreEngineProcManager, instance=True)
        self.engine_core.resources.engine_manager.finished_procs.return_value = {}

    async def pause_generation(self, **_: object) -> None:
        self.asked.set()
        await self.may_pause.wait()

    async def get_weight_version(self) -> str:
        self.probed.set()
        return ""


async def _answers(engine: "Engine", count: int) -> None:
    """Ask the engine's process `count` times; it answers between two steps, so others are served meanwhile."""
    for _ in range(count):
        await engine._llm.get_weight_version()


def _largest_error(sample: "Sample", versions: list[Version], prompt: Int32) -> float:
    """Of `logp`, against the forward pass of the version that each token's span names."""
    spans = np.searchsorted(sample.span_start, np.arange(len(sample.tokens)), side="right") - 1
    labels = sample.span_version[spans]
    known = {version.manifest.version: version.logp(prompt, sample.tokens) for version in versions}
    expected = np.array([known[label][position] for position, label in enumerate(labels.tolist())])
    return float(np.abs(expected - sample.logp).max())


def test_tokens_have_the_log_probabilities_of_the_loaded_weights(
    runner: asyncio.Runner, engine: "Engine", versions: list[Version]
) -> None:
    for version in versions[:2]:
        runner.run(engine.load(version.manifest))
        samples = runner.run(_generate(engine, PROMPT, list(range(16))))
        assert all(sample.span_version.tolist() == [version.manifest.version] for sample in samples)
        assert max(_largest_error(sample, [version], PROMPT) for sample in samples) < LOGP_TOLERANCE


def test_a_swap_in_flight_loses_nothing_and_labels_every_token(
    runner: asyncio.Runner, engine: "Engine", versions: list[Version]
) -> None:
    """300 long responses at a time, so that after a swap not all can be computed anew at once."""

    async def swap_twice() -> "list[Sample]":
        await engine.load(versions[0].manifest)
        supply = _Supply(engine, together=300, max_tokens=200)
        for version, done in zip(versions[1:], (10, 60), strict=True):
            await supply.finished(done)
            await engine.load(version.manifest)
            assert supply.unfinished == 300
        return await supply.rest()

    samples = runner.run(swap_twice())
    assert len(samples) >= 360
    swapped = [sample for sample in samples if len(sample.span_start) > 1]
    assert len(swapped) > 50
    assert all((np.diff(sample.span_version) > 0).all() for sample in samples)
    assert max(_largest_error(sample, versions, PROMPT) for sample in samples) < LOGP_TOLERANCE


def test_a_request_that_the_engine_ends_is_missing_and_the_others_are_as_without_it(
    runner: asyncio.Runner, engine: "Engine", versions: list[Version]
) -> None:
    async def end_one() -> "tuple[list[Sample], list[Sample | None]]":
        await engine.load(versions[0].manifest)
        expected = await _generate(engine, PROMPT, list(range(16)), 200)
        requests = engine._llm.output_processor.external_req_ids
        generating = asyncio.create_task(engine.generate(PROMPT, range(16), max_tokens=200, temperature=1.0))
        await until(lambda: requests, "a request in the engine")
        await engine._llm.abort(next(iter(requests)))
        return expected, await generating

    expected, found = runner.run(end_one())
    assert found.count(None) == 1 and engine.alive
    for sample, same in zip(found, expected, strict=True):
        assert sample is None or sample.tokens.tobytes() == same.tokens.tobytes()


def test_tokens_and_bits_depend_on_weights_prompt_and_seed_alone(
    runner: asyncio.Runner, engine: "Engine", versions: list[Version]
) -> None:
    """Whatever arrives when, with cached prefixes, and through a swap to equal weights."""
    source = random.Random(0)
    prompts = [np.array([1, *source.choices(range(3, 46), k=length)], np.int32) for length in (8, 150, 300)]
    work = [(prompt, seed) for prompt in prompts for seed in range(12)]

    async def one(index: int, free: asyncio.Semaphore) -> tuple[bytes, bytes]:
        async with free:
            prompt, seed = work[index]
            (sample,) = await _generate(engine, prompt, [seed], 40)
        return sample.tokens.tobytes(), sample.logp.tobytes()

    async def all_of(order: list[int], *, together: int, swaps: bool = False) -> list[tuple[bytes, bytes]]:
        free = asyncio.Semaphore(together)
        tasks = {i: asyncio.create_task(one(i, free)) for i in order}
        for done in (0, 1, 12, 24) if swaps else ():
            await until(lambda done=done: sum(task.done() for task in tasks.values()) >= done, f"{done} responses")
            await engine.load(versions[0].manifest)
        return [await tasks[i] for i in sorted(tasks)]

    async def everything() -> list[list[tuple[bytes, bytes]]]:
        await engine.load(versions[0].manifest)
        forward, backward = list(range(len(work))), list(range(len(work)))[::-1]
        return [
            await all_of(forward, together=len(work)),
            await all_of(backward, together=len(work)),
            await all_of(forward, together=5),
            await all_of(forward, together=len(work), swaps=True),
        ]

    first, *others = runner.run(everything())
    assert len(set(first)) == len(work)
    assert all(other == first for other in others)


def test_a_greedy_request_is_the_same_for_every_seed_and_changes_no_bit_of_those_beside_it(
    runner: asyncio.Runner, engine: "Engine", versions: list[Version]
) -> None:
    async def greedy(seed: int) -> "Sample | None":
        return (await engine.generate(PROMPT, [seed], max_tokens=13, temperature=0.0))[0]

    async def both() -> "tuple[list[Sample], list[Sample | None], list[Sample]]":
        await engine.load(versions[0].manifest)
        alone = await _generate(engine, PROMPT, list(range(8)))
        beside, *greedies = await asyncio.gather(_generate(engine, PROMPT, list(range(8))), greedy(8), greedy(9))
        return alone, greedies, beside

    alone, (one, other), beside = runner.run(both())
    assert [each.logp.tobytes() for each in alone] == [each.logp.tobytes() for each in beside]
    assert [each.tokens.tobytes() for each in alone] == [each.tokens.tobytes() for each in beside]
    assert one is not None and other is not None and one.tokens.tobytes() == other.tokens.tobytes()
    ids = [*PROMPT.tolist()]
    for token in one.tokens.tolist():
        logp = [versions[0].logp(np.array(ids, np.int32), np.array([each], np.int32))[0] for each in range(46)]
        assert token == int(np.argmax(logp))
        ids.append(token)


def test_responses_end_at_the_end_token_or_at_the_limit(
    runner: asyncio.Runner, engine: "Engine", versions: list[Version]
) -> None:
    runner.run(engine.load(versions[0].manifest))
    samples = runner.run(_generate(engine, PROMPT, list(range(64)), 100))
    ended = [sample for sample in samples if sample.finish == "stop"]
    cut = [sample for sample in samples if sample.finish == "length"]
    assert ended and len(ended) + len(cut) == len(samples)
    assert all(sample.tokens[-1] == 2 and (sample.tokens[:-1] != 2).all() for sample in ended)
    assert all(len(sample.tokens) == 100 and (sample.tokens != 2).all() for sample in cut)


def test_responses_end_with_the_token_that_completes_a_stop_text(
    runner: asyncio.Runner, engine: "Engine", versions: list[Version]
) -> None:
    """It belongs to the response, with its log-probability; a special token's text is one too."""
    stops = [">", "<bos>"]
    runner.run(engine.load(versions[0].manifest))
    found = runner.run(engine.generate(PROMPT, list(range(64)), max_tokens=100, temperature=1.0, stop=stops))
    samples = [sample for sample in found if sample is not None]
    assert len(samples) == len(found)
    ids = [VOCABULARY.index(stop) for stop in stops]
    assert {sample.tokens[-1] for sample in samples if sample.finish == "stop"} >= set(ids)
    assert all(not np.isin(sample.tokens[:-1], ids).any() for sample in samples)
    assert max(_largest_error(sample, versions[:1], PROMPT) for sample in samples) < LOGP_TOLERANCE


@pytest.mark.parametrize("damage", ["flipped", "missing", "incomplete", "foreign"])
def test_after_bad_weights_nothing_is_served_until_a_good_load(
    runner: asyncio.Runner,
    engine: "Engine",
    versions: list[Version],
    tmp_path: Path,
    damage: str,
) -> None:
    bad = publish(tmp_path, 7).manifest
    file = Path(bad.folder, bad.shards[0].file)
    if damage == "flipped":
        content = bytearray(file.read_bytes())
        content[-1] ^= 1
        file.write_bytes(content)
    elif damage == "missing":
        file.unlink()
    else:  # the digests are right, but a tensor is not there, or is of another model
        from safetensors.torch import load_file, save_file

        tensors = load_file(file)
        one = tensors.pop("model.layers.1.self_attn.v_proj.weight")
        if damage == "foreign":
            tensors["model.layers.7.self_attn.v_proj.weight"] = one
        save_file(tensors, file)
        table = {name: TensorFacts("float32", tuple(value.shape), bits_of(value)) for name, value in tensors.items()}
        shards = [shard_of(file.parent, file.name)]
        bad = make_manifest(file.parent, version=bad.version, tensors=table, shards=shards)

    async def scenario() -> "list[Sample]":
        await engine.load(versions[0].manifest)
        supply = _Supply(engine, together=20, max_tokens=200)
        await supply.finished(1)
        with pytest.raises(StorageError):
            await engine.load(bad)
        assert engine.version == 0
        late = asyncio.create_task(_generate(engine, PROMPT, [99], 1))
        served = len(supply.samples)
        await _answers(engine, 20)
        assert len(supply.samples) == served and supply.unfinished == 20 and not late.done()
        await engine.load(versions[1].manifest)
        return [*await supply.rest(), *await late]

    samples = runner.run(scenario())
    assert engine.version == versions[1].manifest.version
    assert max(_largest_error(sample, versions[:2], PROMPT) for sample in samples) < LOGP_TOLERANCE


def test_cancelled_requests_leave_the_engine(runner: asyncio.Runner, engine: "Engine", versions: list[Version]) -> None:
    """Caches cannot be cleared beside a running request; of 256 the longest would run for many answers more."""

    async def cancel() -> int:
        await engine.load(versions[0].manifest)
        supply = _Supply(engine, together=256, max_tokens=400)
        await supply.finished(1)
        assert not await engine._llm.reset_prefix_cache()
        await supply.cancel()
        answers = 1
        while answers < 20 and not await engine._llm.reset_prefix_cache():
            answers += 1
        return answers

    assert runner.run(cancel()) < 20


def _engines() -> set[psutil.Process]:
    """Engine processes of this one, from the moment they run vLLM's code."""
    return {child for child in psutil.Process().children() if "EngineCore" in child.name()}


def test_starting_can_be_cancelled_and_leaves_nothing(
    runner: asyncio.Runner, engine: "Engine", model_dir: Path
) -> None:
    async def cancel() -> None:
        from isentrope.actors.engine import Engine, EngineOptions

        before = set(psutil.Process().children())
        starting = asyncio.create_task(Engine.start(EngineOptions(str(model_dir), "float32", max_model_len=512)))
        await until(lambda: set(psutil.Process().children()) - before, "a process of the engine")
        starting.cancel()
        await asyncio.wait({starting}, timeout=DEADLINE_S)
        assert starting.cancelled()
        assert set(psutil.Process().children()) <= before

    runner.run(cancel())
    assert engine.alive


class _Own:
    """An engine of its own, with room for few tokens, which is started when a test needs one, and which it may end."""

    def __init__(self, model_dir: Path, version: Version) -> None:
        self.engine: Engine | None = None
        self._model_dir = model_dir
        self._version = version

    async def serving(self) -> "tuple[Engine, psutil.Process]":
        """The engine, and its process."""
        from isentrope.actors.engine import Engine, EngineOptions

        if self.engine is None or not self.engine.alive:
            before = _engines()
            options = EngineOptions(str(self._model_dir), "float32", max_model_len=512, kv_cache_gib=CACHE_GIB)
            self.engine = await Engine.start(options)
            (self._process,) = _engines() - before
        await self.engine.load(self._version.manifest)
        return self.engine, self._process

    async def is_gone(self) -> None:
        """Wait for the end of an engine that has died."""
        assert self.engine is not None and not self.engine.alive and self.engine.version == 0
        await self.engine.close()
        await until(lambda: not is_alive(self._process), "the end of its process")


@pytest.fixture(scope="module")
def own(runner: asyncio.Runner, engine: "Engine", model_dir: Path, versions: list[Version]) -> Iterator[_Own]:
    """Tests that end it come last, and those before them share it."""
    own = _Own(model_dir, versions[0])
    yield own
    if own.engine is not None:
        runner.run(own.engine.close())


def test_bits_are_those_of_a_request_alone_also_after_it_had_to_leave_the_cache(
    runner: asyncio.Runner, engine: "Engine", versions: list[Version], own: _Own
) -> None:
    """Eight requests whose prompts fill the small cache: as they grow, some are thrown out, and computed anew."""
    source = random.Random(1)
    prompts = [np.array([1, *source.choices(range(3, 46), k=99)], np.int32) for _ in range(8)]

    async def one(engine: "Engine", seed: int) -> tuple[bytes, bytes]:
        (sample,) = await _generate(engine, prompts[seed], [seed], 200)
        return sample.tokens.tobytes(), sample.logp.tobytes()

    async def everything() -> list[list[tuple[bytes, bytes]]]:
        await engine.load(versions[0].manifest)
        small, _ = await own.serving()
        cache = small._llm.vllm_config.cache_config
        alone = [await one(engine, seed) for seed in range(8)]
        pages = sorted(-(-(len(prompts[0]) + len(tokens) // 4) // cache.block_size) for tokens, _ in alone)
        assert cache.num_gpu_blocks is not None
        assert 8 < cache.num_gpu_blocks < sum(min(each, 2) for each in pages), "all begin, and not all can go on"
        together = [await asyncio.gather(*(one(each, seed) for seed in range(8))) for each in (engine, small)]
        return [alone, *together]

    alone, together, crowded = runner.run(everything())
    assert len(set(alone)) == 8
    assert together == alone
    assert crowded == alone


def test_an_engine_that_answers_no_more_is_ended(
    runner: asyncio.Runner, engine: "Engine", versions: list[Version], own: _Own, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Stopped in the middle of a response."""
    from isentrope.actors import engine as module

    async def stop() -> None:
        monkeypatch.setattr(module, "PROBE_S", 0.5)
        silent, process = await own.serving()
        supply = _Supply(silent, together=100, max_tokens=400)
        await supply.finished(1)
        process.suspend()
        monkeypatch.setattr(module, "SILENT_S", 1.0)  # not before: a slow machine may take as long to answer
        with pytest.raises(module.EngineDiedError):
            await supply.rest()
        with pytest.raises(module.EngineDiedError):
            await silent.load(versions[1].manifest)
        await own.is_gone()

    async def beside_a_load() -> None:
        async with engine._load_lock:  # during a load the engine of all tests is not asked whether it answers
            await stop()

    runner.run(beside_a_load())


def test_an_engine_that_hangs_in_a_load_is_ended(
    runner: asyncio.Runner, engine: "Engine", versions: list[Version], own: _Own, monkeypatch: pytest.MonkeyPatch
) -> None:
    """In training a version arrives before a probe is due: the load alone must find it out."""
    from isentrope.actors import engine as module

    async def hang() -> None:
        silent, process = await own.serving()
        process.suspend()
        monkeypatch.setattr(module, "LOAD_S", 1.0)
        with pytest.raises(module.EngineDiedError):
            await silent.load(versions[1].manifest)
        await own.is_gone()

    runner.run(hang())
    assert engine.alive


def test_an_engine_that_does_not_start_in_time_is_ended_and_says_so(
    runner: asyncio.Runner, engine: "Engine", model_dir: Path
) -> None:
    from isentrope.actors.engine import Engine, EngineOptions

    before = set(psutil.Process().children())
    options = EngineOptions(str(model_dir), "float32", max_model_len=512, start_timeout_s=0.5)
    with pytest.raises(UnreachableError, match="has not started for 0 s") as caught:
        runner.run(Engine.start(options))
    assert "start_timeout_s" in caught.value.fix
    assert set(psutil.Process().children()) <= before
    assert engine.alive


def test_a_model_that_vllm_refuses_is_the_users_mistake(runner: asyncio.Runner, tmp_path: Path) -> None:
    from isentrope.actors.engine import Engine, EngineOptions

    with pytest.raises(ConfigError):
        runner.run(Engine.start(EngineOptions(str(tmp_path), "float32")))


def test_nothing_listens_beyond_this_machine(engine: "Engine") -> None:
    processes = [psutil.Process(), *psutil.Process().children(recursive=True)]
    assert any("EngineCore" in process.name() for process in processes)
    listening = {
        connection.laddr.ip
        for process in processes
        for connection in process.net_connections("inet")
        if connection.status == psutil.CONN_LISTEN
    }
    assert listening <= {"127.0.0.1", "::1"}


async def _end_during_a_load(version: Version) -> list[object]:
    """Return what asyncio reports when an actor leaves while it loads a version."""
    from isentrope.actors.engine import Engine

    reported: list[object] = []
    asyncio.get_running_loop().set_exception_handler(lambda _, context: reported.append(context["message"]))
    llm = _Stuck()
    engine = Engine(cast("Any", llm), Mock(), Mock())
    loading = asyncio.create_task(engine.load(version.manifest))
    await llm.asked.wait()
    loading.cancel()
    await asyncio.wait({loading})
    await engine.close()
    while len(asyncio.all_tasks()) > 1:
        await asyncio.sleep(0)
    gc.collect()
    return reported


def test_an_end_during_a_load_reports_no_death(versions: list[Version]) -> None:
    assert asyncio.run(_end_during_a_load(versions[0])) == []


def test_files_that_cannot_be_read_in_time_are_named_and_the_engine_is_asked_for_answers_meanwhile(
    versions: list[Version], monkeypatch: pytest.MonkeyPatch
) -> None:
    from isentrope.actors import engine as module

    async def load() -> None:
        reads, over = asyncio.Event(), asyncio.Event()

        async def within(seconds: float, function: object, argument: object) -> None:
            assert seconds > module.LOAD_S and function is module.verify
            reads.set()
            await over.wait()
            raise TimeoutError

        monkeypatch.setattr(module, "within", within)
        monkeypatch.setattr(module, "PROBE_S", 0.0)
        llm = _Stuck()
        llm.may_pause.set()
        engine = module.Engine(cast("Any", llm), Mock(), Mock())
        loading = asyncio.create_task(engine.load(versions[0].manifest))
        await until(reads.is_set, "the reading of the files")
        llm.probed.clear()
        await until(llm.probed.is_set, "a question to the engine")
        over.set()
        with pytest.raises(StorageError, match="could not be read for 120 s") as raised:
            await loading
        assert raised.value.where == versions[0].manifest.folder and engine.version == 0
        await engine.close()

    asyncio.run(load())


def test_loads_come_in_their_order_also_when_the_files_of_the_second_are_read_faster(
    versions: list[Version], monkeypatch: pytest.MonkeyPatch
) -> None:
    """The caller of the first was cancelled: it goes on, and must not come after the second."""
    from isentrope.actors import engine as module

    asked: list[int] = []

    async def load() -> None:
        over = asyncio.Event()

        async def within(seconds: float, function: object, manifest: Manifest) -> None:
            asked.append(manifest.version)
            if manifest.version == versions[0].manifest.version:
                await over.wait()
            raise TimeoutError

        monkeypatch.setattr(module, "within", within)
        llm = _Stuck()
        llm.may_pause.set()
        engine = module.Engine(cast("Any", llm), Mock(), Mock())
        loads = [asyncio.create_task(engine.load(version.manifest)) for version in versions[:2]]
        await until(lambda: asked, "the reading of the first files")
        loads[0].cancel()
        await asyncio.wait({loads[0]})
        over.set()
        with pytest.raises(StorageError, match=f"version {versions[1].manifest.version} could not be read"):
            await loads[1]
        await engine.close()

    asyncio.run(load())
    assert asked == [version.manifest.version for version in versions[:2]]

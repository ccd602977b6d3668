"""The engine on a real vLLM with a tiny model: labels, log-probabilities, determinism, swaps, damage, death."""

import asyncio
import random
import time
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np
import psutil
import pytest
from tiny_model import Version, publish

from isentrope.errors import ConfigError, StorageError
from isentrope.rollout.wire.types import Int32
from isentrope.rollout.wire.weights import make_manifest

if TYPE_CHECKING:
    from isentrope.actors.engine import Engine, Sample

pytestmark = pytest.mark.slow

LOGP_TOLERANCE = 1e-4
PROMPT = np.array([1, 10, 43, 5, 44, 16, 37, 24, 45], np.int32)


async def _generate(engine: "Engine", prompt: Int32, seeds: list[int], max_tokens: int = 13) -> "list[Sample]":
    return await engine.generate(prompt, seeds, max_tokens=max_tokens, temperature=1.0)


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
    """300 long responses, so that after a swap not all can be computed anew at once."""

    async def swap_twice() -> "list[Sample]":
        await engine.load(versions[0].manifest)
        running = [asyncio.create_task(_generate(engine, PROMPT, [seed], 200)) for seed in range(300)]
        for version, done in zip(versions[1:], (10, 60), strict=True):
            while sum(task.done() for task in running) < done:
                await asyncio.sleep(0.01)
            await engine.load(version.manifest)
        return [sample for samples in await asyncio.gather(*running) for sample in samples]

    samples = runner.run(swap_twice())
    assert len(samples) == 300
    swapped = [sample for sample in samples if len(sample.span_start) > 1]
    assert len(swapped) > 50
    assert all((np.diff(sample.span_version) > 0).all() for sample in samples)
    assert max(_largest_error(sample, versions, PROMPT) for sample in samples) < LOGP_TOLERANCE


def test_tokens_and_bits_depend_on_weights_prompt_and_seed_alone(
    runner: asyncio.Runner, engine: "Engine", versions: list[Version]
) -> None:
    """Whatever arrives when, with cached prefixes, and through a swap to equal weights."""
    source = random.Random(0)
    prompts = [np.array([1, *source.choices(range(3, 46), k=length)], np.int32) for length in (8, 150, 300)]
    work = [(prompt, seed) for prompt in prompts for seed in range(12)]

    async def one(index: int, wait_s: float) -> tuple[bytes, bytes]:
        await asyncio.sleep(wait_s)
        prompt, seed = work[index]
        (sample,) = await _generate(engine, prompt, [seed], 40)
        return sample.tokens.tobytes(), sample.logp.tobytes()

    async def all_of(order: list[int], spread_s: float, swap: bool = False) -> list[tuple[bytes, bytes]]:
        tasks = {i: asyncio.create_task(one(i, source.random() * spread_s)) for i in order}
        if swap:
            await asyncio.sleep(0.3)
            await engine.load(versions[0].manifest)
        return [await tasks[i] for i in sorted(tasks)]

    async def everything() -> list[list[tuple[bytes, bytes]]]:
        await engine.load(versions[0].manifest)
        forward, backward = list(range(len(work))), list(range(len(work)))[::-1]
        return [
            await all_of(forward, 0.0),
            await all_of(backward, 0.0),
            await all_of(forward, 1.0),
            await all_of(forward, 0.0, swap=True),
        ]

    first, *others = runner.run(everything())
    assert len(set(first)) == len(work)
    assert all(other == first for other in others)


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
        bad = make_manifest(
            Path(bad.folder), version=bad.version, dtype="float32", parameters={}, files=[bad.shards[0].file]
        )

    async def scenario() -> "list[Sample]":
        await engine.load(versions[0].manifest)
        running = asyncio.create_task(_generate(engine, PROMPT, list(range(20)), 200))
        await asyncio.sleep(0.3)
        with pytest.raises(StorageError):
            await engine.load(bad)
        assert engine.version == 0
        late = asyncio.create_task(_generate(engine, PROMPT, [99]))
        await asyncio.sleep(1.0)
        assert not running.done() and not late.done()
        await engine.load(versions[1].manifest)
        return [*await running, *await late]

    samples = runner.run(scenario())
    assert len(samples) == 21
    assert engine.version == versions[1].manifest.version
    assert max(_largest_error(sample, versions[:2], PROMPT) for sample in samples) < LOGP_TOLERANCE


def test_cancelled_requests_leave_the_engine(runner: asyncio.Runner, engine: "Engine", versions: list[Version]) -> None:
    async def cancel() -> float:
        await engine.load(versions[0].manifest)
        running = asyncio.create_task(_generate(engine, PROMPT, list(range(256)), 400))
        await asyncio.sleep(0.5)
        running.cancel()
        await asyncio.wait({running})
        assert running.cancelled()
        started = time.monotonic()
        await _generate(engine, PROMPT, [1], 13)
        return time.monotonic() - started

    assert runner.run(cancel()) < 2.0  # beside 256 others it would take as long as they do


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
        while not set(psutil.Process().children()) - before:
            await asyncio.sleep(0.05)
        starting.cancel()
        await asyncio.wait({starting}, timeout=30.0)
        assert starting.cancelled()
        assert set(psutil.Process().children()) <= before

    runner.run(cancel())
    assert engine.alive


def test_an_engine_that_answers_no_more_is_ended(
    runner: asyncio.Runner, model_dir: Path, versions: list[Version], monkeypatch: pytest.MonkeyPatch
) -> None:
    """An engine of its own, stopped in the middle of a response."""
    from isentrope.actors import engine as module

    monkeypatch.setattr(module, "PROBE_S", 0.5)
    monkeypatch.setattr(module, "SILENT_S", 2.0)
    before = _engines()

    async def stop() -> None:
        engine = await module.Engine.start(module.EngineOptions(str(model_dir), "float32", max_model_len=512))
        await engine.load(versions[0].manifest)
        running = asyncio.create_task(_generate(engine, PROMPT, list(range(100)), 400))
        await asyncio.sleep(0.5)
        (process,) = _engines() - before
        process.suspend()
        started = time.monotonic()
        with pytest.raises(module.EngineDiedError):
            await running
        assert time.monotonic() - started < 6.0
        with pytest.raises(module.EngineDiedError):
            await engine.load(versions[1].manifest)
        assert not engine.alive
        await engine.close()
        while process.is_running() and process.status() != psutil.STATUS_ZOMBIE:
            await asyncio.sleep(0.05)

    runner.run(stop())


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

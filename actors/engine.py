"""One vLLM engine in its own processes: generates, swaps weights in flight, reports its death.

With `engine_host.py` and `sampling.py` the only file that uses vLLM's engine. Imports no broker, groups or rewards.

Each request has its own seed, so its tokens and log-probabilities are a function of weights, prompt and seed, whatever
else runs (bitwise on a CPU in float32 with one thread). Log-probabilities are those of the distribution that was
sampled from. Every token is labelled with the version of the weights that sampled it: versions change only while
nothing runs, and the key-value cache is computed anew with the new weights.
"""

import asyncio
import contextlib
import itertools
import logging
import math
import time
from collections.abc import Coroutine, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, NoReturn, Self, TypeVar

import numpy as np
from vllm import SamplingParams
from vllm.distributed.weight_transfer.base import WeightTransferInitRequest, WeightTransferUpdateRequest
from vllm.inputs.engine import tokens_input
from vllm.logprobs import FlatLogprobs
from vllm.outputs import CompletionOutput
from vllm.platforms import current_platform
from vllm.v1.engine.async_llm import AsyncLLM
from vllm.v1.engine.exceptions import EngineDeadError, EngineGenerateError
from vllm.v1.engine.utils import CoreEngineProcManager

from isentrope.actors.deadlines import within
from isentrope.actors.engine_host import POLL_S, EngineDiedError, EngineHost, EngineOptions, last_line
from isentrope.actors.sampling import Kept, sampling, sampling_mask
from isentrope.actors.served import Judge
from isentrope.errors import ConfigError, StorageError
from isentrope.long_waits import waiting_for
from isentrope.rollout.wire.digests import algorithm_of
from isentrope.rollout.wire.proof import Proof, parse_tensors, read_canary
from isentrope.rollout.wire.types import Finish, Float32, Int32, Int64, SamplingMask
from isentrope.rollout.wire.weights import Manifest, verify

PROBE_S = 10.0
"""Interval of calls that the engine must answer."""

SILENT_S = 60.0
"""Silence after which an engine counts as dead."""

LOAD_S, LOAD_BYTES_PER_S = 120.0, 50e6
"""Longest load of a version, and the bytes of its weights that give it a second more: while it lasts, the engine is not
asked whether it answers. The files are read once before, for as long at most."""

WARM_UP_TOKENS = 97
"""Tokens of the canary at start: vLLM compiles for each length, and canaries of a run are this long."""

logger = logging.getLogger(__name__)
_T = TypeVar("_T")


@dataclass(frozen=True, slots=True)
class Sample:
    """One sampled response; the fields are those of `rollout.types.Response`."""

    tokens: Int32
    logp: Float32
    span_start: Int32
    span_version: Int64
    finish: Finish
    sampling_mask: SamplingMask | None = None


class Engine:
    """A running engine, made with `start`. Until the first good `load`, and after a failed one, requests wait."""

    def __init__(self, llm: AsyncLLM, host: EngineHost, judge: Judge) -> None:
        self._llm = llm
        self._host = host
        self._names = itertools.count()
        self._turns = asyncio.Lock()  # of loads, also of one whose caller was cancelled
        self._load_lock = asyncio.Lock()  # while one changes the engine
        self._load_ends = math.inf  # by the loop's clock
        self._manifest: Manifest | None = None
        self._proof: Proof | None = None
        self._judge = judge
        self._computes_canary = True
        self._asked_at: float | None = None
        self._death = asyncio.create_task(self._until_dead())

    @classmethod
    async def start(cls, options: EngineOptions) -> Self:
        """Start the engine's processes with random weights, paused.

        Raises:
            ConfigError: vLLM refuses the model or the options.
            EngineDiedError: its processes did not start, or not in time.
        """
        limit = asyncio.timeout(options.start_timeout_s)
        try:
            async with limit:
                return await cls._started(options)
        except TimeoutError:
            if not limit.expired():
                raise
            raise EngineDiedError(
                f"the engine has not started for {options.start_timeout_s:.0f} s",
                where=f"model {options.model_dir}",
                fix="see the log above; raise actors.start_timeout_s if it only needs more time",
            ) from None

    @classmethod
    async def _started(cls, options: EngineOptions) -> Self:
        host = EngineHost(options)
        llm = await host.llm()
        engine = cls(llm, host, Judge(options.dtype, options.canary_limit))
        try:
            await engine._call(llm.pause_generation(mode="keep", clear_cache=True))
            await engine._call(llm.init_weight_transfer_engine(WeightTransferInitRequest({})))
            await engine._warm_up()
        except BaseException:
            await engine.close()
            raise
        return engine

    @property
    def manifest(self) -> Manifest | None:
        """The weights that are served; None: none, and requests wait."""
        return self._manifest

    @property
    def proof(self) -> Proof | None:
        """Proof that the served weights are the learner's; None: none are served, or no learner published them."""
        return self._proof

    @property
    def version(self) -> int:
        """Version of the weights that are served; 0: none."""
        return self._manifest.version if self._manifest is not None else 0

    @property
    def alive(self) -> bool:
        """True if the engine's processes run and answer."""
        return not self._death.done()

    @property
    def silent_s(self) -> float:
        """Seconds for which a call that it must answer is open; 0: none is."""
        return 0.0 if self._asked_at is None else time.monotonic() - self._asked_at

    @property
    def max_model_len(self) -> int:
        """Longest prompt plus response, in tokens."""
        return int(self._llm.model_config.max_model_len)

    async def generate(  # noqa: PLR0913  (the settings of a request)
        self,
        prompt_ids: Int32,
        seeds: Sequence[int],
        *,
        max_tokens: int,
        temperature: float,
        stop: Sequence[str] = (),
        top_p: float = 1.0,
        top_k: int = 0,
    ) -> list[Sample | None]:
        """Return one response for each of `seeds`; None: its request failed. Survives any number of loads; cancelling
        it ends its requests.

        A response ends at the model's own end token, with the token that completes one of the texts `stop`, or after
        `max_tokens`. With `top_k` above 0 it tells among which tokens each was chosen.

        Raises:
            EngineDiedError: the engine died meanwhile, or is dead.
        """
        prompt = prompt_ids.tolist()
        kept = Kept(top_k, top_p, self._llm.model_config.get_vocab_size())
        asked = [sampling(seed, max_tokens, temperature, stop, kept) for seed in seeds]
        samples = await self._call(self._samples(prompt, asked, kept))
        if None in samples and self._llm.errored:
            raise self._died()
        return samples

    async def load(self, manifest: Manifest) -> None:
        """Serve the weights of `manifest`. Running requests pause meanwhile and go on with the new weights.

        After an error the engine is paused: it serves nothing until a load succeeds.

        Raises:
            StorageError: the files differ from the manifest, or are not the weights of this model, or the engine
                computes another policy with them than the learner.
            EngineDiedError: the engine died meanwhile, or is dead.
        """
        loading = asyncio.create_task(self._load(manifest))
        loading.add_done_callback(_retrieve)
        with waiting_for(f"the engine of {self._llm.model_config.model} to load version {manifest.version}"):
            await asyncio.shield(loading)  # a cancelled caller must not leave half a load

    async def wait_dead(self) -> NoReturn:
        """Wait until the engine has died, and raise EngineDiedError."""
        await asyncio.shield(self._death)
        raise self._died()

    async def close(self) -> None:
        """End the engine's processes, and with them running requests."""
        self._death.cancel()
        await asyncio.to_thread(self._host.close)

    async def _samples(self, prompt: list[int], samplings: list[SamplingParams], kept: Kept) -> list[Sample | None]:
        return await asyncio.gather(*(self._sample(prompt, sampling, kept) for sampling in samplings))

    async def _sample(self, prompt: list[int], sampling: SamplingParams, kept: Kept) -> Sample | None:
        try:
            async for output in self._llm.generate(tokens_input(prompt), sampling, str(next(self._names))):
                return _as_sample(output.outputs[0], kept)  # only the final output is delivered
        except (EngineGenerateError, OverflowError) as error:
            logger.warning("a request failed: %r", error.__cause__ or error)
            return None
        raise self._died()

    async def _load(self, manifest: Manifest) -> None:
        limit_s = LOAD_S + sum(shard.size_bytes for shard in manifest.shards) / LOAD_BYTES_PER_S
        async with self._turns:
            problem: StorageError | None = None
            paths: list[Path] = []
            try:
                paths = await within(limit_s, verify, manifest)  # the engine goes on, and is asked for answers
            except StorageError as error:
                problem = error
            except TimeoutError:
                problem = _unread(manifest, limit_s)
            async with self._load_lock:
                with self._limited(limit_s):
                    await self._pause()
                    if problem is not None:
                        raise problem
                    proof = await self._update(manifest, paths)
                    await self._call(self._llm.resume_generation())
                self._manifest, self._proof = manifest, proof

    @contextlib.contextmanager
    def _limited(self, seconds: float) -> Iterator[None]:
        """Let the engine count as dead if the block lasts longer."""
        self._load_ends = asyncio.get_running_loop().time() + seconds
        try:
            yield
        finally:
            self._load_ends = math.inf

    async def _update(self, manifest: Manifest, paths: Sequence[Path]) -> Proof | None:
        """Load verified files into the paused engine; return the proof of what it serves then."""
        files = WeightTransferUpdateRequest({"paths": [str(path) for path in paths], **_table_of(manifest)})
        try:
            await self._call(self._llm.start_weight_update())
            await self._call(self._llm.update_weights(files))
            await self._call(self._llm.finish_weight_update(str(manifest.version)))
            return await self._prove(manifest)
        except (EngineDiedError, StorageError):
            raise
        except Exception as error:  # vLLM passes on any error of its processes as a bare Exception
            raise StorageError(
                f"version {manifest.version} cannot be loaded: {last_line(error)}", where=manifest.folder
            ) from error

    async def _prove(self, manifest: Manifest) -> Proof | None:
        """Return what shows that the loaded weights are those of `manifest`; StorageError if they are not, None if no
        learner published them."""
        if manifest.tensors is None:
            return None
        self._judge.check_bits(manifest, await self._on_workers("isentrope_loaded"))
        tensors = len(parse_tensors(Path(manifest.folder, manifest.tensors.file).read_bytes()))
        if manifest.canary is None or not self._computes_canary:
            return Proof(tensors=tensors)
        canary, began = read_canary(Path(manifest.folder)), time.monotonic()
        logp = await self._logp(canary.tokens)
        return self._judge.prove(manifest, tensors, canary, logp, time.monotonic() - began)

    async def _logp(self, tokens: Sequence[int]) -> list[float]:
        """Return the log-probabilities of all `tokens` but the first; only while paused."""
        answers = await self._on_workers("isentrope_logp", list(tokens))
        return next(answer for answer in answers if answer is not None)

    async def _warm_up(self) -> None:
        """Compute a canary of the random weights, so that what it needs is compiled before anything waits for it."""
        tokens = range(min(WARM_UP_TOKENS, self.max_model_len - 1, self._llm.model_config.get_vocab_size()))
        try:
            await self._logp(tokens)
        except EngineDiedError:
            raise
        except Exception as error:  # as in `_load`
            if current_platform.is_cpu():
                raise ConfigError(
                    f"vLLM cannot compute this model: {last_line(error)}",
                    where=f"model {self._llm.model_config.model}",
                    fix="use another model or version of vLLM",
                ) from error
            logger.warning("log-probabilities of new weights are not compared with the learner's: %s", error)
            self._computes_canary = False

    async def _on_workers(self, method: str, *arguments: object) -> list[Any]:
        """Return what a method of `WorkerCanary` returns on each of the engine's workers."""
        return await self._call(self._llm.collective_rpc(method, args=arguments))

    async def _pause(self) -> None:
        self._manifest = self._proof = None
        await self._call(self._llm.pause_generation(mode="keep", clear_cache=True))

    async def _call(self, call: Coroutine[None, None, _T]) -> _T:
        """Return the result of `call`, or raise EngineDiedError: vLLM may never answer calls to a dead engine."""
        answer = asyncio.create_task(call)
        try:
            await asyncio.wait({answer, self._death}, return_when=asyncio.FIRST_COMPLETED)
            if not self._death.done():
                return answer.result()
            if answer.done():
                answer.exception()  # retrieved, else asyncio reports it
            raise self._died()
        except EngineDeadError as error:
            raise self._died() from error
        finally:
            answer.cancel()

    async def _until_dead(self) -> None:
        """Wait until the engine's processes are gone; end them if they no longer answer."""
        loop = asyncio.get_running_loop()
        probe_at = loop.time() + PROBE_S
        while not self._llm.errored:
            if loop.time() > self._load_ends:
                logger.error("the engine does not end a load: ending it")
                await asyncio.to_thread(self._host.close)
                return
            if loop.time() >= probe_at and not self._load_lock.locked():
                self._asked_at = time.monotonic()
                try:
                    with waiting_for(f"an answer of the engine of {self._llm.model_config.model}"):
                        async with asyncio.timeout(SILENT_S):
                            await self._llm.get_weight_version()
                except EngineDeadError:
                    return
                except TimeoutError:
                    if not self._load_lock.locked():  # else it answers after a load that began meanwhile
                        logger.error("engine silent for %.0f s: ending it", SILENT_S)
                        await asyncio.to_thread(self._host.close)
                        return
                self._asked_at = None
                probe_at = loop.time() + PROBE_S
            await asyncio.sleep(POLL_S)

    def _died(self) -> EngineDiedError:
        self._manifest = None
        manager = self._llm.engine_core.resources.engine_manager
        assert isinstance(manager, CoreEngineProcManager)
        codes = ", ".join(f"exit {code}" for code in manager.finished_procs().values())
        return EngineDiedError(
            f"the engine died ({codes or 'still there'})",
            where=f"model {self._llm.model_config.model}",
            fix="see the log above; another process may have killed it, or the kernel because memory ran out",
        )


def _retrieve(task: "asyncio.Task[None]") -> None:
    """Take a task's error, which asyncio reports otherwise when the caller was cancelled and nobody awaits it."""
    if not task.cancelled():
        task.exception()


def _unread(manifest: Manifest, limit_s: float) -> StorageError:
    return StorageError(
        f"version {manifest.version} could not be read for {limit_s:.0f} s",
        where=manifest.folder,
        fix="see the disk, or the network that it lies behind",
    )


def _table_of(manifest: Manifest) -> dict[str, str]:
    """Return the fields of `weight_receiver.Files` that say how the tensors of a version are proven."""
    if manifest.tensors is None:
        return {"tensors": ""}
    table = manifest.tensors
    return {"tensors": str(Path(manifest.folder, table.file)), "algorithm": algorithm_of(table.digest)}


def _as_sample(output: CompletionOutput, kept: Kept) -> Sample | None:
    """Return the response of a finished request; None: vLLM ended it otherwise, by an error of that request.
    OverflowError: it is not known among which tokens each was chosen."""
    if output.finish_reason not in (Finish.STOP, Finish.LENGTH):
        logger.warning("vLLM ended a request with %r", output.finish_reason)
        return None
    told = output.logprobs
    assert isinstance(told, FlatLogprobs) and output.weight_versions is not None
    return Sample(
        tokens=np.asarray(output.token_ids, np.int32),
        logp=np.asarray([told.logprobs[first] for first in told.start_indices], np.float32),
        span_start=np.asarray([span.start for span in output.weight_versions], np.int32),
        span_version=np.asarray([int(span.version) for span in output.weight_versions], np.int64),
        finish=Finish(output.finish_reason),
        sampling_mask=sampling_mask(told, kept),
    )

"""One vLLM engine in its own processes: generates, swaps weights in flight, reports its death.

The only file that uses vLLM's engine interface. Does not import broker, groups or rewards.

Each request has its own seed, so its tokens and log-probabilities are a function of weights, prompt and seed, whatever
else runs (bitwise on a CPU in float32 with one thread). Log-probabilities are those of the distribution that was
sampled from. Every token is labelled with the version of the weights that sampled it: versions change only while
nothing runs, and the key-value cache is computed anew with the new weights.
"""

import asyncio
import itertools
import logging
import multiprocessing
import signal
import threading
from collections.abc import Callable, Coroutine, Sequence
from dataclasses import dataclass
from typing import Literal, NoReturn, Self, TypeVar

import numpy as np
from vllm import SamplingParams
from vllm.config import WeightTransferConfig
from vllm.distributed.weight_transfer.base import WeightTransferInitRequest, WeightTransferUpdateRequest
from vllm.engine.arg_utils import AsyncEngineArgs
from vllm.inputs.engine import tokens_input
from vllm.logprobs import FlatLogprobs
from vllm.outputs import CompletionOutput
from vllm.platforms import current_platform
from vllm.sampling_params import RequestOutputKind
from vllm.v1.engine.async_llm import AsyncLLM
from vllm.v1.engine.exceptions import EngineDeadError, EngineGenerateError
from vllm.v1.engine.utils import CoreEngineProcManager

from isentrope.actors.weight_receiver import BACKEND, Tether
from isentrope.errors import ConfigError, StorageError, UnreachableError
from isentrope.rollout.wire.types import Finish, Float32, Int32, Int64
from isentrope.rollout.wire.weights import Manifest, verify

POLL_S = 0.25
"""Interval of checks that the engine's processes run."""

PROBE_S = 10.0
"""Interval of calls that the engine must answer."""

SILENT_S = 60.0
"""Silence after which an engine counts as dead."""

CPU_MAX_REQUESTS = 256
"""Requests computed together on a CPU; vLLM's own default of 128 makes small models a fifth slower."""

logger = logging.getLogger(__name__)
_T = TypeVar("_T")


class EngineDiedError(UnreachableError):
    """The engine did not start, its process is gone, or it no longer answers."""


@dataclass(frozen=True, slots=True)
class EngineOptions:
    """Options of an engine.

    model_dir: folder or id of configuration and tokenizer; weights come by manifest. max_model_len: None: the model's
    own limit. gpu_memory_utilization, kv_cache_gib: size of the key-value cache on a GPU and on a CPU.
    """

    model_dir: str
    dtype: Literal["float32", "bfloat16"]
    max_model_len: int | None = None
    tensor_parallel_size: int = 1
    gpu_memory_utilization: float = 0.9
    kv_cache_gib: float = 1.0


@dataclass(frozen=True, slots=True)
class Sample:
    """One sampled response; the fields are those of `rollout.types.Response`."""

    tokens: Int32
    logp: Float32
    span_start: Int32
    span_version: Int64
    finish: Finish


class Engine:
    """A running engine, made with `start`. Until the first good `load`, and after a failed one, requests wait."""

    def __init__(self, llm: AsyncLLM, host: "_Host") -> None:
        self._llm = llm
        self._host = host
        self._names = itertools.count()
        self._load_lock = asyncio.Lock()
        self._manifest: Manifest | None = None
        self._death = asyncio.create_task(self._until_dead())

    @classmethod
    async def start(cls, options: EngineOptions) -> Self:
        """Start the engine's processes with random weights, paused.

        Raises:
            ConfigError: vLLM refuses the model or the options.
            EngineDiedError: its processes did not start.
        """
        host = _Host(options)
        llm = await host.llm()
        engine = cls(llm, host)
        try:
            await engine._call(llm.pause_generation(mode="keep", clear_cache=True))
            await engine._call(llm.init_weight_transfer_engine(WeightTransferInitRequest({})))
        except BaseException:
            await engine.close()
            raise
        return engine

    @property
    def manifest(self) -> Manifest | None:
        """The weights that are served; None: none, and requests wait."""
        return self._manifest

    @property
    def version(self) -> int:
        """Version of the weights that are served; 0: none."""
        return self._manifest.version if self._manifest is not None else 0

    @property
    def alive(self) -> bool:
        """True if the engine's processes run and answer."""
        return not self._death.done()

    @property
    def max_model_len(self) -> int:
        """Longest prompt plus response, in tokens."""
        return int(self._llm.model_config.max_model_len)

    async def generate(
        self, prompt_ids: Int32, seeds: Sequence[int], *, max_tokens: int, temperature: float, stop: Sequence[str] = ()
    ) -> list[Sample | None]:
        """Return one response for each of `seeds`; None: its request failed. Survives any number of loads; cancelling
        it ends its requests.

        A response ends at the model's own end token, with the token that completes one of the texts `stop`, or after
        `max_tokens`.

        Raises:
            EngineDiedError: the engine died meanwhile, or is dead.
        """
        prompt = prompt_ids.tolist()
        samples = await self._call(self._samples(prompt, [_sampling(s, max_tokens, temperature, stop) for s in seeds]))
        if None in samples and self._llm.errored:
            raise self._died()
        return samples

    async def load(self, manifest: Manifest) -> None:
        """Serve the weights of `manifest`. Running requests pause meanwhile and go on with the new weights.

        After an error the engine is paused: it serves nothing until a load succeeds.

        Raises:
            StorageError: the files differ from the manifest, or are not the weights of this model.
            EngineDiedError: the engine died meanwhile, or is dead.
        """
        await asyncio.shield(self._load(manifest))  # a cancelled caller must not leave half a load

    async def wait_dead(self) -> NoReturn:
        """Wait until the engine has died, and raise EngineDiedError."""
        await asyncio.shield(self._death)
        raise self._died()

    async def close(self) -> None:
        """End the engine's processes, and with them running requests."""
        self._death.cancel()
        await asyncio.to_thread(self._host.close)

    async def _samples(self, prompt: list[int], samplings: list[SamplingParams]) -> list[Sample | None]:
        return await asyncio.gather(*(self._sample(prompt, sampling) for sampling in samplings))

    async def _sample(self, prompt: list[int], sampling: SamplingParams) -> Sample | None:
        try:
            async for output in self._llm.generate(tokens_input(prompt), sampling, str(next(self._names))):
                return _as_sample(output.outputs[0])  # only the final output is delivered
        except EngineGenerateError as error:
            logger.warning("a request failed: %r", error.__cause__)
            return None
        raise self._died()

    async def _load(self, manifest: Manifest) -> None:
        async with self._load_lock:
            try:
                paths = await asyncio.to_thread(verify, manifest)
            except StorageError:
                await self._pause()
                raise
            await self._pause()
            files = WeightTransferUpdateRequest({"paths": [str(path) for path in paths]})
            try:
                await self._call(self._llm.start_weight_update())
                await self._call(self._llm.update_weights(files))
                await self._call(self._llm.finish_weight_update(str(manifest.version)))
            except EngineDiedError:
                raise
            except Exception as error:  # vLLM passes on any error of its processes as a bare Exception
                raise StorageError(
                    f"version {manifest.version} cannot be loaded: {_last_line(error)}", where=manifest.folder
                ) from error
            await self._call(self._llm.resume_generation())
            self._manifest = manifest

    async def _pause(self) -> None:
        self._manifest = None
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
            if loop.time() >= probe_at and not self._load_lock.locked():
                try:
                    async with asyncio.timeout(SILENT_S):
                        await self._llm.get_weight_version()
                except EngineDeadError:
                    return
                except TimeoutError:
                    if not self._load_lock.locked():  # else it answers after a load that began meanwhile
                        logger.error("engine silent for %.0f s: ending it", SILENT_S)
                        await asyncio.to_thread(self._host.close)
                        return
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


def _sampling(seed: int, max_tokens: int, temperature: float, stop: Sequence[str]) -> SamplingParams:
    return SamplingParams(
        seed=seed,
        max_tokens=max_tokens,
        temperature=temperature,
        logprobs=0,  # of the sampled token alone
        flat_logprobs=True,
        stop=list(stop),
        detokenize=bool(stop),  # vLLM looks for the texts in what it has decoded
        skip_special_tokens=False,  # the text of a special token, such as <|im_end|>, may be one of them
        output_kind=RequestOutputKind.FINAL_ONLY,
    )


def _as_sample(output: CompletionOutput) -> Sample | None:
    """Return the response of a finished request; None: vLLM ended it otherwise, by an error of that request."""
    if output.finish_reason not in (Finish.STOP, Finish.LENGTH):
        logger.warning("vLLM ended a request with %r", output.finish_reason)
        return None
    assert isinstance(output.logprobs, FlatLogprobs) and output.weight_versions is not None
    return Sample(
        tokens=np.asarray(output.token_ids, np.int32),
        logp=np.asarray(output.logprobs.logprobs, np.float32),
        span_start=np.asarray([span.start for span in output.weight_versions], np.int32),
        span_version=np.asarray([int(span.version) for span in output.weight_versions], np.int64),
        finish=Finish(output.finish_reason),
    )


class _Host(threading.Thread):
    """Thread that starts vLLM and runs until `close`.

    The kernel ends an engine's process with the thread that started it, so the engine needs its own thread; and
    starting takes half a minute, in which the event loop must go on.
    """

    def __init__(self, options: EngineOptions) -> None:
        super().__init__(name="engine", daemon=True)
        self._options = options
        self._loop = asyncio.get_running_loop()
        self._llm: asyncio.Future[AsyncLLM] = self._loop.create_future()
        self._closed = threading.Event()
        self._others = set(multiprocessing.active_children())
        self.start()

    async def llm(self) -> AsyncLLM:
        """Return vLLM, once it has started. Cancelling this ends what has been started, and waits for that end."""
        try:
            return await self._llm
        except asyncio.CancelledError:
            self._closed.set()
            while self.is_alive():
                for child in set(multiprocessing.active_children()) - self._others:
                    if child.name == "EngineCore":
                        child.kill()  # vLLM then stops starting
                await asyncio.sleep(POLL_S)
            raise

    def close(self) -> None:
        """End the engine's processes at once; blocks."""
        self._closed.set()
        self.join()

    def run(self) -> None:
        signal.pthread_sigmask(signal.SIG_BLOCK, {signal.SIGINT})  # the engine inherits it: Ctrl-C is for us to handle
        try:
            llm = _start_vllm(self._options)
        except BaseException as error:  # the waiting task must receive it, whatever it is
            self._deliver(self._llm.set_exception, error)
            return
        self._deliver(self._llm.set_result, llm)
        self._closed.wait()
        llm.shutdown(timeout=0.0)  # by default it takes 4 s, and has nothing to save

    def _deliver(self, deliver: Callable[[_T], None], what: _T) -> None:
        if not self._closed.is_set():
            self._loop.call_soon_threadsafe(deliver, what)


def _start_vllm(options: EngineOptions) -> AsyncLLM:
    try:
        config = _arguments(options).create_engine_config()
    except (ValueError, OSError) as error:
        raise ConfigError(
            f"vLLM refuses the model: {_last_line(error)}", where=options.model_dir, fix="see model and actors"
        ) from error
    config.additional_config = Tether()
    try:
        return AsyncLLM.from_vllm_config(config, disable_log_stats=True)
    except (RuntimeError, TimeoutError) as error:
        raise EngineDiedError(
            f"the engine did not start: {_last_line(error)}",
            where=f"model {options.model_dir}",
            fix="see the log above",
        ) from error


def _arguments(options: EngineOptions) -> AsyncEngineArgs:
    arguments = AsyncEngineArgs(
        model=options.model_dir,
        load_format="dummy",
        dtype=options.dtype,
        tensor_parallel_size=options.tensor_parallel_size,
        logprobs_mode="processed_logprobs",
        weight_transfer_config=WeightTransferConfig(backend=BACKEND),
    )
    if options.max_model_len is not None:
        arguments.max_model_len = options.max_model_len
    if current_platform.is_cpu():
        arguments.enforce_eager = True
        arguments.kv_cache_memory_bytes = int(options.kv_cache_gib * 2**30)
        arguments.max_num_seqs = CPU_MAX_REQUESTS
        # For a prompt computed in pieces vLLM rewinds the seeded generator, which a CPU generator cannot do: the engine
        # dies. Short prompts too: a load turns all running requests into prompts.
        arguments.enable_chunked_prefill = False
    else:
        arguments.gpu_memory_utilization = options.gpu_memory_utilization
    return arguments


def _last_line(error: BaseException) -> str:
    lines = str(error).strip().splitlines()
    return lines[-1] if lines else type(error).__name__

"""The thread and the processes that an engine runs in: its options, its start, its end. Used by `engine.py` alone."""

import asyncio
import logging
import multiprocessing
import signal
import threading
import time
from collections.abc import Callable
from dataclasses import dataclass
from typing import Literal, TypeVar

from vllm.config import WeightTransferConfig
from vllm.engine.arg_utils import AsyncEngineArgs
from vllm.platforms import current_platform
from vllm.v1.engine.async_llm import AsyncLLM

from isentrope.actors.weight_receiver import BACKEND, Tether
from isentrope.errors import ConfigError, UnreachableError
from isentrope.long_waits import waiting_for
from isentrope.rollout.data.model_place import require_here

POLL_S = 0.25
"""Interval of checks that the engine's processes run."""

CLOSE_S = 60.0
"""Longest end of an engine, also of one that is still starting."""

CPU_MAX_REQUESTS = 256
"""Requests computed together on a CPU; vLLM's own default of 128 makes small models a fifth slower."""

EXTENSION = "isentrope.actors.worker_canary.WorkerCanary"
"""Class that is mixed into vLLM's workers."""

_T = TypeVar("_T")

logger = logging.getLogger(__name__)


class EngineDiedError(UnreachableError):
    """The engine did not start, its process is gone, or it no longer answers."""


@dataclass(frozen=True, slots=True)
class EngineOptions:
    """Options of an engine.

    model_dir: folder or id of configuration and tokenizer; weights come by manifest. max_model_len: None: the model's
    own limit. gpu_memory_utilization, kv_cache_gib: size of the key-value cache on a GPU and on a CPU. canary_limit,
    start_timeout_s: as in `ActorsConfig`.
    """

    model_dir: str
    dtype: Literal["float32", "bfloat16"]
    max_model_len: int | None = None
    tensor_parallel_size: int = 1
    gpu_memory_utilization: float = 0.9
    kv_cache_gib: float = 1.0
    canary_limit: float | None = None
    start_timeout_s: float = 600.0


class EngineHost(threading.Thread):
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
            with waiting_for(f"the engine of {self._options.model_dir} to start"):
                return await self._llm
        except asyncio.CancelledError:
            self._closed.set()
            with waiting_for("the end of an engine that was still starting"):
                await self._stop_starting()
            raise

    def close(self) -> None:
        """End the engine's processes at once; blocks, for at most `CLOSE_S`: the thread ends with this process."""
        self._closed.set()
        with waiting_for(f"the engine of {self._options.model_dir} to end"):
            self.join(CLOSE_S)
        if self.is_alive():
            logger.error("vLLM does not end its processes; they are killed")
            for child in set(multiprocessing.active_children()) - self._others:
                child.kill()

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

    async def _stop_starting(self) -> None:
        given_up_at = time.monotonic() + CLOSE_S
        while self.is_alive() and time.monotonic() < given_up_at:
            for child in set(multiprocessing.active_children()) - self._others:
                if child.name == "EngineCore":
                    child.kill()  # vLLM then stops starting
            await asyncio.sleep(POLL_S)

    def _deliver(self, deliver: Callable[[_T], None], what: _T) -> None:
        if not self._closed.is_set():
            self._loop.call_soon_threadsafe(deliver, what)


def _start_vllm(options: EngineOptions) -> AsyncLLM:
    require_here(options.model_dir)
    try:
        config = _arguments(options).create_engine_config()
    except (ValueError, OSError) as error:
        raise ConfigError(
            f"vLLM refuses the model: {last_line(error)}", where=options.model_dir, fix="see model and actors"
        ) from error
    config.additional_config = Tether()
    try:
        return AsyncLLM.from_vllm_config(config, disable_log_stats=True)
    except (RuntimeError, TimeoutError) as error:
        raise EngineDiedError(
            f"the engine did not start: {last_line(error)}",
            where=f"model {options.model_dir}",
            fix="see the log above",
        ) from error


def _arguments(options: EngineOptions) -> AsyncEngineArgs:
    arguments = AsyncEngineArgs(
        model=options.model_dir,
        load_format="dummy",
        dtype=options.dtype,
        tensor_parallel_size=options.tensor_parallel_size,
        distributed_executor_backend="mp"
        if options.tensor_parallel_size > 1
        else None,  # in Ray, vLLM would take Ray's
        logprobs_mode="processed_logprobs",
        max_logprobs=-1,  # 20 unless set, and sampling masks are read from them
        hf_overrides={"head_dtype": "float32"},  # as the learner has them: rounded logits make noise in every ratio
        worker_extension_cls=EXTENSION,
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


def last_line(error: BaseException) -> str:
    """Return the last line of an error's message: vLLM puts the cause of an error of its processes there."""
    lines = str(error).strip().splitlines()
    return lines[-1] if lines else type(error).__name__

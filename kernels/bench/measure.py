"""Timing of functions on one GPU: interleaved, medians, caches flushed; and the rates of a copy and a matmul.

Times are in milliseconds, from CUDA events.
"""

import statistics
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass

import torch
import triton

FLUSH_BYTES = 512 << 20
"""Written between repetitions: several times any second-level cache."""


@dataclass(frozen=True, slots=True)
class Contender:
    """prepare: untimed, before every repetition. call: the timed function."""

    prepare: Callable[[], object]
    call: Callable[[], object]


@dataclass(frozen=True, slots=True)
class Timing:
    """Result for one contender. peak_bytes: allocated by the call. syncs: True if it waits for the device."""

    median_ms: float
    p20_ms: float
    p80_ms: float
    peak_bytes: int
    syncs: bool


def interleaved(contenders: Mapping[str, Contender], repetitions: int, warmups: int) -> dict[str, Timing | str]:
    """Return the timings, measured in the order A B C A B C …; a message in place of one that fails."""
    flush = torch.empty(FLUSH_BYTES, dtype=torch.int8, device="cuda")
    facts: dict[str, tuple[int, bool]] = {}
    failed: dict[str, Timing | str] = {}
    for name, contender in contenders.items():
        try:
            for _ in range(warmups):
                contender.prepare()
                contender.call()
            facts[name] = (_peak(contender), _waits(contender))
        except Exception as error:  # a failure of a peer is a line of the table
            failed[name] = f"{type(error).__name__}: {str(error).splitlines()[0] if str(error) else ''}"
    times: dict[str, list[float]] = {name: [] for name in facts}
    for _ in range(repetitions):
        for name, samples in times.items():
            contenders[name].prepare()
            flush.zero_()
            samples.append(_once(contenders[name].call))
    return failed | {name: _timing(samples, *facts[name]) for name, samples in times.items()}


def copy_rate() -> float:
    """Return the bytes read and written per second by a copy of 4 GiB."""
    source = torch.empty(4 << 30, dtype=torch.int8, device="cuda")
    target = torch.empty_like(source)
    return 2 * source.numel() / (_best(lambda: target.copy_(source)) * 1e-3)


def matmul_rate() -> float:
    """Return the FLOP per second of a bfloat16 matmul with 8192 rows."""
    left, right = (torch.randn(8192, 8192, device="cuda", dtype=torch.bfloat16) for _ in range(2))
    return 2 * 8192**3 / (_best(lambda: left @ right) * 1e-3)


@contextmanager
def compilations() -> Iterator[list[str]]:
    """Collect the names of the kernels that Triton compiles meanwhile."""
    names: list[str] = []

    def note(**compiled: object) -> None:
        names.append(str(compiled["repr"]).partition("[")[0])

    before = triton.knobs.runtime.jit_post_compile_hook  # pyright: ignore[reportAttributeAccessIssue]
    triton.knobs.runtime.jit_post_compile_hook = note  # pyright: ignore[reportAttributeAccessIssue]
    try:
        yield names
    finally:
        triton.knobs.runtime.jit_post_compile_hook = before  # pyright: ignore[reportAttributeAccessIssue]


def _once(call: Callable[[], object]) -> float:
    start, end = (torch.cuda.Event(enable_timing=True) for _ in range(2))
    start.record()
    call()
    end.record()
    end.synchronize()
    return float(start.elapsed_time(end))


def _best(call: Callable[[], object]) -> float:
    for _ in range(3):
        call()
    return statistics.median(_once(call) for _ in range(20))


def _peak(contender: Contender) -> int:
    contender.prepare()
    torch.cuda.synchronize()
    torch.cuda.reset_peak_memory_stats()
    before = torch.cuda.memory_allocated()
    contender.call()
    torch.cuda.synchronize()
    return torch.cuda.max_memory_allocated() - before


def _waits(contender: Contender) -> bool:
    contender.prepare()
    torch.cuda.synchronize()
    torch.cuda.set_sync_debug_mode("error")
    try:
        contender.call()
    except RuntimeError as error:
        if "synchroniz" not in str(error):
            raise
        return True
    finally:
        torch.cuda.set_sync_debug_mode("default")
    return False


def _timing(samples: Sequence[float], peak: int, waits: bool) -> Timing:
    ordered = sorted(samples)
    last = len(ordered) - 1
    return Timing(statistics.median(ordered), ordered[last // 5], ordered[last * 4 // 5], peak, waits)

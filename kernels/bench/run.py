"""One run of the benchmark, from shapes to a table, a JSON file and the targets."""

import json
import platform
from collections.abc import Callable, Iterator, Mapping
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import torch
import triton

from isentrope.errors import ConfigError
from isentrope.kernels.bench import aot, cases, measure, peer_kernels, peers, report
from isentrope.kernels.bench.measure import Contender, Timing
from isentrope.kernels.checks import INTERPRETED

CHECKED_ROWS = 32
"""Rows that are compared with float64."""

Write = Callable[[str], object]


@dataclass(frozen=True, slots=True)
class BenchOptions:
    """Options of the command line."""

    json: Path | None
    check: bool
    quick: bool
    aot: bool


@dataclass(frozen=True, slots=True)
class BenchPlan:
    """Shapes and repetitions. logits: (M, V); widths: hidden sizes."""

    sequence: int
    logits: tuple[tuple[int, int], ...]
    linear_rows: int
    widths: tuple[int, ...]
    repetitions: int
    warmups: int


FULL = BenchPlan(2048, ((4096, 151936), (16384, 151936), (16384, 32000)), 16384, (896, 3584), 50, 10)
QUICK = BenchPlan(1024, ((4096, 151936),), 4096, (896,), 10, 3)
LENGTHS = (100, 200, 333, 512, 777, 1024, 1500, 1999, 2048, 3000)
"""New numbers of tokens, for which nothing may be compiled."""


def run(options: BenchOptions, write: Write) -> int:
    """Run the benchmark, write its results, and return the exit code."""
    if INTERPRETED:
        raise ConfigError("TRITON_INTERPRET is set: kernels are interpreted", fix="unset TRITON_INTERPRET")
    if options.json is not None and not options.json.absolute().parent.is_dir():
        raise ConfigError(f"--json {options.json}: the folder does not exist", fix="create it first")
    if options.aot:
        return _compiled(options, write)
    if not torch.cuda.is_available():
        raise ConfigError("no CUDA device here", fix="use --aot to count the instructions of compiled kernels")
    results = _measured(QUICK if options.quick else FULL)
    write(report.table(results))
    missed = report.missed(results)
    _save(options, results)
    if options.json is not None:
        report.chart(results, options.json.with_suffix(".png"))
    if options.check:
        write("".join(f"missed: {line}\n" for line in missed) or "all targets met\n")
    return int(options.check and bool(missed))


def _compiled(options: BenchOptions, write: Write) -> int:
    theirs, missing = peer_kernels.peer_kernels()
    reports = [asdict(each) for each in aot.reports([*aot.kernels(), *theirs])]
    write(report.compiled_table(reports, missing))
    _save(options, {"versions": versions(), "missing": missing, "kernels": reports})
    return 0


def versions() -> dict[str, str]:
    """Return the versions of everything that numbers depend on."""
    own = {"python": platform.python_version(), "torch": torch.__version__, "triton": triton.__version__}
    return own | peers.versions()


def _save(options: BenchOptions, results: Mapping[str, Any]) -> None:
    if options.json is not None:
        options.json.write_text(json.dumps(results, indent=1) + "\n", encoding="utf-8")


def _measured(plan: BenchPlan) -> dict[str, Any]:
    torch.manual_seed(0)
    rates = {"copy_bytes_per_s": measure.copy_rate(), "matmul_flop_per_s": measure.matmul_rate()}
    rows = [*_logit_rows(plan), *_selection_rows(plan), *_linear_rows(plan)]
    return {
        "device": torch.cuda.get_device_name(),
        "versions": versions(),
        "rates": rates,
        "missing": {name: version for name, version in peers.versions().items() if version == "missing"},
        "recompilations": recompilations(),
        "results": rows,
    }


def _logit_rows(plan: BenchPlan) -> Iterator[dict[str, Any]]:
    for count, vocabulary in plan.logits:
        sequences = count // plan.sequence
        inputs = cases.Inputs.draw(sequences, plan.sequence, vocabulary, torch.bfloat16, "cuda")
        size = 2 * count * vocabulary
        for quantity, builds in cases.LOGITS.items():
            amount = {"bytes": size if quantity == "forward" else 3 * size}
            common = {"quantity": quantity, "tokens": count, "vocabulary": vocabulary, **amount}
            yield from _rows(common, builds, inputs, plan)


def _selection_rows(plan: BenchPlan) -> Iterator[dict[str, Any]]:
    inputs = cases.Inputs.draw(32, 2048, 2, torch.bfloat16, "cuda")
    common = {"quantity": "selection", "tokens": 65536, "bytes": 5 * 65536}
    yield from _rows(common, cases.SELECTION, inputs, plan)


def _linear_rows(plan: BenchPlan) -> Iterator[dict[str, Any]]:
    vocabulary = 151936
    for width in plan.widths:
        sequences = plan.linear_rows // plan.sequence
        inputs = cases.Inputs.draw_hidden(sequences, plan.sequence, vocabulary, width, "cuda")
        shape = {"tokens": plan.linear_rows, "vocabulary": vocabulary, "hidden": width}
        amount = {"flop": 3 * 2 * plan.linear_rows * vocabulary * width}
        for quantity, builds in cases.LINEAR.items():
            yield from _rows({"quantity": quantity, **shape, **amount}, builds, inputs, plan)


def _rows(
    common: Mapping[str, object], builds: Mapping[str, cases.Build], inputs: cases.Inputs, plan: BenchPlan
) -> Iterator[dict[str, Any]]:
    """Yield a row of the results for every provider.

    common: quantity and shape of all rows, and the amount: bytes moved at least, or FLOP of three matmuls.
    """
    calls: dict[str, cases.Call] = {}
    for provider, build in builds.items():
        try:
            calls[provider] = build(inputs)
        except ImportError as error:
            yield {**common, "provider": provider, "failed": f"missing: {error}"}
    contenders = {name: Contender(inputs.restore, call) for name, call in calls.items()}
    for provider, timing in measure.interleaved(contenders, plan.repetitions, plan.warmups).items():
        if isinstance(timing, Timing):
            inputs.restore()
            errors = deviations(calls[provider](), inputs)
            yield {**common, "provider": provider, **asdict(timing), "errors": errors}
        else:
            yield {**common, "provider": provider, "failed": timing}


def deviations(outcome: cases.CaseResult, inputs: cases.Inputs) -> dict[str, float]:
    """Return the largest difference of log-prob and entropy from float64 over the first rows."""
    rows = slice(0, CHECKED_ROWS)
    if inputs.hidden is not None and inputs.weight is not None:
        logits = inputs.hidden[rows].double() @ inputs.weight.double().T
    else:
        logits = inputs.original[rows].double()
    y = torch.log_softmax(logits, -1)
    keep = inputs.mask[rows]
    exact = {"logp": y.gather(1, inputs.targets[rows, None])[:, 0], "entropy": -(y.exp() * y).sum(-1)}
    found = {"logp": outcome.logp, "entropy": outcome.entropy}
    return {
        name: float((value[rows].double() - exact[name]).abs()[keep].max())
        for name, value in found.items()
        if value is not None
    }


def recompilations() -> list[str]:
    """Return our kernels that Triton compiles for new numbers of tokens; it must be empty."""
    call = cases.LOGITS["kl_cov"]["isentrope"]
    call(cases.Inputs.draw(1, 640, 4096, torch.bfloat16, "cuda"))()
    with measure.compilations() as names:
        for length in LENGTHS:
            call(cases.Inputs.draw(1, length, 4096, torch.bfloat16, "cuda"))()
    return names

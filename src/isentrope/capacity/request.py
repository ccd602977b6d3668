"""The command `plan`: from a run file, stated speeds and a measured run to the figures, and how they are shown."""

import contextlib
import re
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path

from pydantic import ByteSize, TypeAdapter, ValidationError
from rich.console import Console

from isentrope import runfolder
from isentrope.capacity.figures import Figures, Needs, Speeds, figures
from isentrope.capacity.measured import Measured, measure
from isentrope.capacity.model_memory import model_facts
from isentrope.capacity.sizes import Shape
from isentrope.check.findings import Findings
from isentrope.check.model import read_config
from isentrope.check.source import KEY, find
from isentrope.config import load
from isentrope.console import say
from isentrope.errors import ConfigError
from isentrope.rollout.rewards.correctness import reward_names
from isentrope.runfile import raise_all

_UNITS = ("B", "kB", "MB", "GB", "TB")


@dataclass(frozen=True, slots=True)
class Request:
    """Arguments of the command."""

    run_file: Path
    overrides: Sequence[str]
    gpus: str
    """Memory of one GPU, such as 80GB; empty: not stated."""
    disk: str
    network: str
    """Speeds, such as 1GB/s."""
    actor_tokens: float | None
    learner_tokens: float | None
    """Stated rates; None: as measured."""
    measured: Path | None
    """Run whose rates and lengths are taken; None: lengths are the largest that are allowed."""


def answer(request: Request) -> Figures:
    """Return the figures of a run file; mistakes in it as `check`, but for the machine's, which is another one."""
    speeds = {name: size(getattr(request, name), f"--{name}") for name in ("disk", "network")}
    gpu = size(request.gpus, "--gpus") if request.gpus else None
    config, file = load(request.run_file, request.overrides)
    findings = Findings(config, file)
    raise_all([error for name, errors in findings.stages() if name != "machine" for error in errors or ()])
    config = findings.checked().config
    source = find(config.model.path, file)
    before = None if request.measured is None else measure(runfolder.find(request.measured))
    lengths = findings.lengths
    assert lengths is not None, "a model that exists has a tokenizer"
    needs = Needs(
        config=config,
        model=model_facts(read_config(source, file.where(KEY)), config.model.dtype),
        shape=Shape(
            config.sampling.group_size,
            int(lengths.tokens.max()),
            config.sampling.max_new_tokens if before is None else before.response_tokens,
            tuple(reward_names(config.data)),
        ),
        retired_share=0.0 if before is None else before.retired_share,
        reference=findings.needs_reference,
        critic=findings.needs_critic,
    )
    return figures(needs, _speeds(request, speeds, before), gpu)


def size(text: str, option: str) -> int:
    """Return bytes, or bytes per second, of a text such as `80GB` or `1GB/s`; ConfigError if it is neither."""
    number, stated = 0, text.removesuffix("/s")
    if re.fullmatch(r"[0-9.]+ *[A-Za-z]*", stated):  # pydantic itself reads the beginning alone
        with contextlib.suppress(ValidationError):
            number = int(TypeAdapter(ByteSize).validate_python(stated))
    if number < 1:
        raise ConfigError(f"{text!r} is not a size", where=option, fix="give a number and a unit, as 80GB or 1GB/s")
    return number


def show(told: Figures, as_json: bool, console: Console) -> None:
    """Print the figures."""
    if as_json:
        console.print_json(told.model_dump_json())
        return
    for name, value in _lines(told):
        say(console, f"{name:34} {value}")


def _speeds(request: Request, speeds: dict[str, int], before: Measured | None) -> Speeds:
    actor, learner = request.actor_tokens, request.learner_tokens
    if before is not None:
        actor, learner = actor or before.actor_tokens, learner or before.learner_tokens
    return Speeds(speeds["disk"], speeds["network"], actor, learner)


def _lines(told: Figures) -> Iterator[tuple[str, str]]:
    yield "prompt and response", f"{told.prompt_tokens:,} and {told.response_tokens:,} tokens"
    yield "a group", _bytes(told.group_bytes)
    yield "groups generated for a batch", f"{told.batch_groups:,}"
    yield "broker, for groups", f"{_bytes(told.broker_bytes)} at most; budget {_bytes(told.budget_bytes)}"
    closes = told.admission_closes_in_batch
    yield "batches between checkpoints", f"{told.checkpoint_batches:,}"
    yield (
        "admission",
        "stays open from one checkpoint to the next"
        if closes is None
        else f"would close in batch {closes}, were there no early checkpoint: raise redis.max_bytes to have fewer",
    )
    if told.kept_bytes:
        yield "kept of a batch", _bytes(told.kept_bytes)
    fits = {None: "", True: ", fits the GPU", False: ", does not fit the GPU"}[told.fits_gpu]
    yield "a rank, training", f"{_bytes(told.rank_bytes)}{fits}"
    yield "a rank, on its machine besides", f"{_bytes(told.rank_host_bytes)}; rank 0 {_bytes(told.rank_0_bytes)} more"
    yield "a version of the weights", _bytes(told.weights_bytes)
    yield "publication", f"{told.write_s:.3g} s to write, {told.fetch_s:.3g} s for a machine to fetch"
    if told.actors is not None:
        yield "actors that keep the learner busy", f"{told.actors:,}"


def _bytes(count: int) -> str:
    value, unit = float(count), 0
    while value >= 1000 and unit < len(_UNITS) - 1:
        value, unit = value / 1000, unit + 1
    return f"{value:.3g} {_UNITS[unit]}"

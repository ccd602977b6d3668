"""The rules that every record obeys: actors check what they send, learners what they read, by the same functions.

An invalid record raises `RecordError`; `codec.py` lists its words.
"""

import math
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from typing import NoReturn

import numpy as np
from numpy.typing import NDArray

from isentrope.errors import RecordError
from isentrope.rollout.config import MAX_REWARD
from isentrope.rollout.units import MAX_RESPONSES
from isentrope.rollout.wire.types import (
    Demonstration,
    EvalResult,
    Experts,
    Group,
    Missing,
    Response,
    SamplingMask,
    Steps,
    incarnation_of,
)

LOGP_SLACK = 1e-4
"""A log-probability may exceed 0 by this much, in nats: engines sum float32 exponentials."""

TIES = 8
"""Tokens beyond `top_k` that sampling may have kept because they are as likely as the last of them."""

MAX_DEMONSTRATIONS = 64
MAX_ENTRIES = 256
MAX_TEXT = 1 << 16
MAX_LAYERS = 1024
MAX_SLOTS = 256


@dataclass(frozen=True, slots=True)
class Limits:
    """Facts of a run that its records must fit; None: not checked.

    vocab_size: token ids are below. group_size: number of responses that were asked for. newest_version: no token is
    from a later one. max_new_tokens: longest response. max_model_len: longest prompt with a response. temperature,
    top_k: those of sampling.
    """

    vocab_size: int | None = None
    group_size: int | None = None
    newest_version: int | None = None
    max_new_tokens: int | None = None
    max_model_len: int | None = None
    temperature: float | None = None
    top_k: int | None = None


def refuse(code: str, where: str) -> NoReturn:
    """Raise the error of a record that breaks the rule `code` at the field `where`."""
    raise RecordError(code, where=where)


def validate_group(group: Group, limits: Limits) -> None:
    """Check a group and all in it.

    Raises:
        RecordError: it is not a valid record of such a run.
    """
    if not 0 <= group.seq < 1 << 63 or not 0 <= group.attempt < 1 << 31:
        refuse("number", f"seq {group.seq}, attempt {group.attempt}")
    if not (math.isfinite(group.temperature) and group.temperature > 0):
        refuse("number", f"temperature: {group.temperature}")
    if limits.temperature is not None and group.temperature != limits.temperature:
        refuse("number", f"temperature: {group.temperature}, not the run's {limits.temperature}")
    _validate_numbers(group.seconds.items(), "number", "seconds")
    validate_text({"actor": group.actor, "source": group.source})
    if group.prompt.ndim != 1 or len(group.prompt) == 0:
        refuse("length", "prompt: no tokens")
    _validate_ids(group.prompt, limits.vocab_size, "prompt")
    _validate_counts(group, limits.group_size)
    for i, response in enumerate(group.responses):
        validate_response(response, len(group.prompt), limits, f"responses[{i}]")
    if group.greedy_reward is not None and not abs(group.greedy_reward) <= MAX_REWARD:
        refuse("reward", f"greedy_reward: {group.greedy_reward}")
    if len(group.demonstrations) > MAX_DEMONSTRATIONS:
        refuse("group", f"{len(group.demonstrations)} demonstrations, at most {MAX_DEMONSTRATIONS} are allowed")
    for i, demonstration in enumerate(group.demonstrations):
        _validate_demonstration(demonstration, limits.vocab_size, f"demonstrations[{i}]")


def validate_response(response: Response, prompt_length: int, limits: Limits, where: str) -> None:
    """Check one response to a prompt of `prompt_length` tokens; RecordError as above, at `where`."""
    count = len(response.tokens)
    _validate_lengths(count, prompt_length, limits, where)
    if {response.tokens.shape, response.logp_rollout.shape, response.mask.shape} != {(count,)}:
        refuse("length", f"{where}: {count} tokens, logp {response.logp_rollout.shape}, mask {response.mask.shape}")
    _validate_ids(response.tokens, limits.vocab_size, f"{where}.tokens")
    if not np.all(np.isfinite(response.logp_rollout)) or np.any(response.logp_rollout > LOGP_SLACK):
        refuse("logp", f"{where}: not finite, or above 0")
    start, version = response.span_start, response.span_version
    if start.ndim != 1 or start.shape != version.shape or len(start) == 0:
        refuse("spans", f"{where}: {start.shape} starts, {version.shape} versions")
    if start[0] != 0 or np.any(start[1:] <= start[:-1]) or start[-1] >= count:
        refuse("spans", f"{where}: starts do not ascend from 0 below {count}")
    newest = limits.newest_version
    if np.any(incarnation_of(version) < 1) or (newest is not None and np.any(version > newest)):
        refuse("version", f"{where}: a version that was never published")
    if not 0 <= response.seed < 1 << 64:
        refuse("number", f"{where}.seed: {response.seed}")
    _validate_score(response.reward, response.reward_parts, response.answer, where)
    if response.steps is not None:
        _validate_steps(response.steps, count, f"{where}.steps")
    if response.sampling_mask is not None:
        _validate_sampling_mask(response.sampling_mask, response.tokens, limits, f"{where}.sampling_mask")
    if response.routing is not None:
        _validate_routing(response.routing, prompt_length, count, f"{where}.routing")


def _validate_lengths(count: int, prompt_length: int, limits: Limits, where: str) -> None:
    if count == 0:
        refuse("length", f"{where}: no tokens")
    if limits.max_new_tokens is not None and count > limits.max_new_tokens:
        refuse("length", f"{where}: {count} tokens, at most {limits.max_new_tokens} are allowed")
    if limits.max_model_len is not None and prompt_length + count > limits.max_model_len:
        refuse("length", f"{where}: {prompt_length + count} tokens with the prompt, of {limits.max_model_len}")


def validate_eval(result: EvalResult) -> None:
    """Check what an evaluation result has beside its group."""
    validate_text({"name": result.name})
    for i, response in enumerate(result.group.responses):
        if np.any(response.span_version != result.version):
            refuse("version", f"responses[{i}]: not answered by {result.version} alone")


def validate_text(texts: Mapping[str, str]) -> None:
    """Check texts, given by their fields."""
    for where, text in texts.items():
        try:
            size = len(text.encode())
        except UnicodeEncodeError:
            refuse("field", f"{where}: not valid text")
        if size > MAX_TEXT:
            refuse("field", f"{where}: {size} bytes of text, at most {MAX_TEXT} are allowed")


def _validate_counts(group: Group, group_size: int | None) -> None:
    """Check that every response that was asked for is there or missing, once."""
    asked = len(group.responses) + len(group.missing)
    if not 1 <= len(group.responses) <= asked <= MAX_RESPONSES:
        refuse("group", f"{len(group.responses)} of {asked} responses, 1 to {MAX_RESPONSES} are allowed")
    if group_size is not None and asked != group_size:
        refuse("group", f"{asked} responses, with {len(group.missing)} missing ones, instead of {group_size}")
    _validate_missing(group.missing, asked)


def _validate_missing(missing: Iterable[Missing], asked: int) -> None:
    least = 0
    for i, each in enumerate(missing):
        if not least <= each.index < asked:
            refuse("group", f"missing[{i}]: indices do not ascend below {asked}")
        if not 0 <= each.tokens < 1 << 31:
            refuse("number", f"missing[{i}].tokens: {each.tokens}")
        least = each.index + 1


def _validate_demonstration(demonstration: Demonstration, vocab_size: int | None, where: str) -> None:
    if demonstration.tokens.ndim != 1 or len(demonstration.tokens) == 0:
        refuse("length", f"{where}: no tokens")
    _validate_ids(demonstration.tokens, vocab_size, f"{where}.tokens")
    _validate_score(demonstration.reward, demonstration.reward_parts, demonstration.answer, where)


def _validate_score(reward: float, parts: Mapping[str, float], answer: str, where: str) -> None:
    if not abs(reward) <= MAX_REWARD:  # nor is it NaN
        refuse("reward", f"{where}: {reward}")
    _validate_numbers(parts.items(), "reward", f"{where}.parts")
    validate_text({f"{where}.answer": answer})


def _validate_steps(steps: Steps, count: int, where: str) -> None:
    start, end = steps.start, steps.end
    if start.ndim != 1 or {start.shape, end.shape, steps.correct.shape} != {start.shape}:
        refuse("length", f"{where}: {start.shape} starts, {end.shape} ends, {steps.correct.shape} labels")
    if np.any(start < 0) or np.any(end > count) or np.any(start >= end) or np.any(start[1:] < end[:-1]):
        refuse("spans", f"{where}: not ascending and disjoint within {count} tokens")


def _validate_sampling_mask(kept: SamplingMask, tokens: NDArray[np.int32], limits: Limits, where: str) -> None:
    ids, start = kept.ids, kept.start
    if ids.ndim != 1 or start.shape != (len(tokens) + 1,):
        refuse("length", f"{where}: {start.shape} starts for {len(tokens)} tokens")
    if start[0] != 0 or start[-1] != len(ids) or np.any(start[1:] < start[:-1]):
        refuse("spans", f"{where}: starts do not ascend from 0 to {len(ids)}")
    _validate_ids(ids, limits.vocab_size, where)
    size = np.diff(start)
    if limits.top_k is not None and size.max(initial=0) > limits.top_k + TIES:
        refuse("length", f"{where}: {size.max()} tokens to choose from, where sampling keeps {limits.top_k}")
    owner = np.repeat(np.arange(len(tokens)), size)
    if np.any((ids[1:] <= ids[:-1]) & (owner[1:] == owner[:-1])):
        refuse("tokens", f"{where}: the ids of a token do not ascend")
    chosen = np.bincount(owner[ids == tokens[owner]], minlength=len(tokens))
    if np.any((size > 0) & (chosen == 0)):
        refuse("tokens", f"{where}: a token that is not among those it was chosen from")


def _validate_routing(routing: Experts, prompt_length: int, count: int, where: str) -> None:
    if routing.ndim != 3 or not count <= len(routing) <= prompt_length + count - 1:
        refuse("length", f"{where}: {routing.shape}, for {count} to {prompt_length + count - 1} tokens")
    if not (1 <= routing.shape[1] <= MAX_LAYERS and 1 <= routing.shape[2] <= MAX_SLOTS):
        refuse("length", f"{where}: {routing.shape}, at most {MAX_LAYERS} layers and {MAX_SLOTS} experts are allowed")


def _validate_ids(ids: NDArray[np.int32], vocab_size: int | None, where: str) -> None:
    if np.any(ids < 0) or (vocab_size is not None and np.any(ids >= vocab_size)):
        refuse("tokens", f"{where}: an id outside the vocabulary")


def _validate_numbers(numbers: Iterable[tuple[str, float]], code: str, where: str) -> None:
    named = list(numbers)
    if len(named) > MAX_ENTRIES:
        refuse(code, f"{where}: {len(named)} entries, at most {MAX_ENTRIES} are allowed")
    for name, number in named:
        if not abs(number) <= MAX_REWARD:
            refuse(code, f"{where}.{name[:32]}: {number}")
        validate_text({where: name})

"""The payload of a record: one msgpack map, from a group and back. Checks types and shapes; `validation.py` the rest.

Arrays are `[dtype tag, shape, raw little-endian bytes]`, so that decoding copies nothing and runs no code: no extension
types, no pickle. Optional fields are keys that may be absent.
"""

import math
from collections.abc import Mapping
from typing import NoReturn

import msgpack  # type: ignore[import-untyped]
import numpy as np
from numpy.typing import NDArray

from isentrope.errors import RecordError
from isentrope.rollout.units import MAX_RESPONSES
from isentrope.rollout.wire.types import (
    Bool,
    Demonstration,
    Experts,
    Finish,
    Group,
    Int32,
    Missing,
    MissingReason,
    Response,
    SamplingMask,
    Steps,
)
from isentrope.rollout.wire.validation import MAX_ENTRIES, MAX_TEXT, refuse

GROUP_KEYS = frozenset({"seq", "attempt", "actor", "prompt", "responses", "temperature", "source", "seconds"})
"""Keys of a group of schema 1; schema 2 has `missing` and `GROUP_OPTIONS` too."""
GROUP_OPTIONS = frozenset({"greedy_reward", "demonstrations"})
RESPONSE_KEYS = frozenset({"tokens", "logp", "mask", "span_at", "span", "finish", "reward", "parts", "seed", "answer"})
RESPONSE_OPTIONS = frozenset({"steps", "sampling_mask", "routing"})

_DEMONSTRATION_KEYS = frozenset({"tokens", "reward", "parts", "answer"})
_NONE: frozenset[str] = frozenset()


def pack(table: Mapping[str, object]) -> bytes:
    """Return the payload of a map."""
    packed = msgpack.packb(table, use_bin_type=True)
    assert isinstance(packed, bytes)
    return packed


def unpack(payload: bytes) -> object:
    """Return the value of a payload, unchecked but for its format and sizes."""
    try:
        return msgpack.unpackb(
            payload,
            raw=False,
            strict_map_key=True,
            object_pairs_hook=_unique,
            ext_hook=_no_extension,
            max_array_len=MAX_RESPONSES,  # arrays travel as bytes: lists are short, and a forged length costs nothing
            max_map_len=MAX_ENTRIES,
            max_str_len=MAX_TEXT,
            max_ext_len=0,
        )
    except (ValueError, TypeError, msgpack.UnpackException) as error:
        raise RecordError("format", where=f"payload: {type(error).__name__}") from None


# --- writing


def group_map(group: Group) -> dict[str, object]:
    """Return a group as the map of its payload."""
    table: dict[str, object] = {
        "seq": group.seq,
        "attempt": group.attempt,
        "actor": group.actor,
        "prompt": _array(group.prompt, "<i4"),
        "responses": [_response_map(response) for response in group.responses],
        "missing": [[each.index, int(each.reason), each.tokens] for each in group.missing],
        "temperature": float(group.temperature),
        "source": group.source,
        "seconds": {name: float(value) for name, value in group.seconds.items()},
    }
    if group.greedy_reward is not None:
        table["greedy_reward"] = float(group.greedy_reward)
    if group.demonstrations:
        table["demonstrations"] = [_demonstration_map(each) for each in group.demonstrations]
    return table


def _response_map(response: Response) -> dict[str, object]:
    table: dict[str, object] = {
        "tokens": _array(response.tokens, "<i4"),
        "logp": _array(response.logp_rollout, "<f4"),
        "mask": _array(response.mask, "|u1"),
        "span_at": _array(response.span_start, "<i4"),
        "span": _array(response.span_version, "<i8"),
        "finish": str(response.finish),
        "reward": float(response.reward),
        "parts": {name: float(value) for name, value in response.reward_parts.items()},
        "seed": response.seed,
        "answer": response.answer,
    }
    if (steps := response.steps) is not None:
        table["steps"] = [_array(steps.start, "<i4"), _array(steps.end, "<i4"), _array(steps.correct, "|u1")]
    if (kept := response.sampling_mask) is not None:
        table["sampling_mask"] = [_array(kept.ids, "<i4"), _array(kept.start, "<i4")]
    if response.routing is not None:
        table["routing"] = _array(response.routing, "|u1" if response.routing.itemsize == 1 else "<u2")
    return table


def _demonstration_map(demonstration: Demonstration) -> dict[str, object]:
    return {
        "tokens": _array(demonstration.tokens, "<i4"),
        "reward": float(demonstration.reward),
        "parts": {name: float(value) for name, value in demonstration.reward_parts.items()},
        "answer": demonstration.answer,
    }


def _array(values: NDArray[np.generic], tag: str) -> list[object]:
    return [tag, list(values.shape), np.ascontiguousarray(values, dtype=np.dtype(tag)).tobytes()]


# --- reading


def read_table(value: object, keys: frozenset[str], options: frozenset[str], where: str) -> dict[str, object]:
    """Return a map of exactly `keys` and some of `options`."""
    if not isinstance(value, dict) or not keys <= value.keys() <= keys | options:
        refuse("field", f"{where}: not a map of exactly {', '.join(sorted(keys))}")
    return value


def read_integer(value: object, where: str) -> int:
    """Return an unsigned integer."""
    if type(value) is not int or not 0 <= value < 1 << 64:
        refuse("field", f"{where}: not an unsigned integer")
    return value


def read_text(value: object, where: str) -> str:
    """Return a text."""
    if type(value) is not str:
        refuse("field", f"{where}: not text")
    return value


def read_group(table: Mapping[str, object], schema: int) -> Group:
    """Return the group of a map with the keys of a group of `schema`."""
    greedy = table.get("greedy_reward")
    options = RESPONSE_OPTIONS if schema > 1 else _NONE
    return Group(
        seq=read_integer(table["seq"], "seq"),
        attempt=read_integer(table["attempt"], "attempt"),
        actor=read_text(table["actor"], "actor"),
        prompt=_int32(table["prompt"], "prompt"),
        responses=tuple(
            _read_response(value, options, f"responses[{i}]")
            for i, value in enumerate(_list(table["responses"], "responses"))
        ),
        temperature=_real(table["temperature"], "temperature"),
        source=read_text(table["source"], "source"),
        seconds=_numbers(table["seconds"], "seconds"),
        missing=tuple(
            _read_missing(value, f"missing[{i}]") for i, value in enumerate(_list(table.get("missing", []), "missing"))
        ),
        greedy_reward=None if "greedy_reward" not in table else _real(greedy, "greedy_reward"),
        demonstrations=tuple(
            _read_demonstration(value, f"demonstrations[{i}]")
            for i, value in enumerate(_list(table.get("demonstrations", []), "demonstrations"))
        ),
    )


def _read_response(value: object, options: frozenset[str], where: str) -> Response:
    table = read_table(value, RESPONSE_KEYS, options, where)
    finish = read_text(table["finish"], f"{where}.finish")
    if finish not in tuple(Finish):
        refuse("field", f"{where}.finish: {finish[:32]!r}")
    return Response(
        tokens=_int32(table["tokens"], f"{where}.tokens"),
        logp_rollout=_read_array(table["logp"], "<f4", 1, f"{where}.logp").view(np.float32),
        mask=_bools(table["mask"], f"{where}.mask"),
        span_start=_int32(table["span_at"], f"{where}.span_at"),
        span_version=_read_array(table["span"], "<i8", 1, f"{where}.span").view(np.int64),
        finish=Finish(finish),
        reward=_real(table["reward"], f"{where}.reward"),
        seed=read_integer(table["seed"], f"{where}.seed"),
        reward_parts=_numbers(table["parts"], f"{where}.parts"),
        answer=read_text(table["answer"], f"{where}.answer"),
        steps=_read_steps(table["steps"], f"{where}.steps") if "steps" in table else None,
        sampling_mask=_read_kept(table["sampling_mask"], f"{where}.sampling_mask")
        if "sampling_mask" in table
        else None,
        routing=_read_routing(table["routing"], f"{where}.routing") if "routing" in table else None,
    )


def _read_missing(value: object, where: str) -> Missing:
    index, reason, tokens = (read_integer(each, where) for each in _list(value, where, size=3))
    if reason not in tuple(MissingReason):
        refuse("field", f"{where}: {reason} is not a reason")
    return Missing(index, MissingReason(reason), tokens)


def _read_demonstration(value: object, where: str) -> Demonstration:
    table = read_table(value, _DEMONSTRATION_KEYS, _NONE, where)
    return Demonstration(
        tokens=_int32(table["tokens"], f"{where}.tokens"),
        reward=_real(table["reward"], f"{where}.reward"),
        reward_parts=_numbers(table["parts"], f"{where}.parts"),
        answer=read_text(table["answer"], f"{where}.answer"),
    )


def _read_steps(value: object, where: str) -> Steps:
    start, end, correct = _list(value, where, size=3)
    return Steps(_int32(start, where), _int32(end, where), _bools(correct, where))


def _read_kept(value: object, where: str) -> SamplingMask:
    ids, start = _list(value, where, size=2)
    return SamplingMask(_int32(ids, where), _int32(start, where))


def _read_routing(value: object, where: str) -> Experts:
    if isinstance(value, list) and value[:1] == ["|u1"]:
        return _read_array(value, "|u1", 3, where).view(np.uint8)
    return _read_array(value, "<u2", 3, where).view(np.uint16)


def _read_array(value: object, tag: str, dimensions: int, where: str) -> NDArray[np.generic]:
    if not isinstance(value, list) or len(value) != 3 or value[0] != tag or type(value[2]) is not bytes:
        refuse("field", f"{where}: not an array of {tag}")
    shape, raw = value[1], value[2]
    if not isinstance(shape, list) or len(shape) != dimensions or any(type(size) is not int for size in shape):
        refuse("length", f"{where}: shape is not {dimensions} numbers")
    least = 0 if dimensions == 1 else 1
    if min(shape) < least or math.prod(shape) * np.dtype(tag).itemsize != len(raw):
        refuse("length", f"{where}: shape {shape} and {len(raw)} bytes differ")
    return np.frombuffer(raw, dtype=np.dtype(tag)).reshape(shape)


def _int32(value: object, where: str) -> Int32:
    return _read_array(value, "<i4", 1, where).view(np.int32)


def _bools(value: object, where: str) -> Bool:
    values = _read_array(value, "|u1", 1, where).view(np.uint8)
    if np.any(values > 1):
        refuse("field", f"{where}: values other than 0 and 1")
    return values.view(np.bool_)


def _list(value: object, where: str, size: int | None = None) -> list[object]:
    if not isinstance(value, list) or (size is not None and len(value) != size):
        refuse("field", f"{where}: not a list" if size is None else f"{where}: not a list of {size}")
    return value


def _real(value: object, where: str) -> float:
    if type(value) is not float:
        refuse("field", f"{where}: not a float")
    return value


def _numbers(value: object, where: str) -> dict[str, float]:
    if not isinstance(value, dict):
        refuse("field", f"{where}: not a map")
    return {read_text(name, where): _real(number, where) for name, number in value.items()}


def _unique(pairs: list[tuple[object, object]]) -> dict[object, object]:
    table = dict(pairs)
    if len(table) != len(pairs):
        raise ValueError("duplicate key")
    return table


def _no_extension(code: int, data: bytes) -> NoReturn:
    raise ValueError(f"extension type {code}")

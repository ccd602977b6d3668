"""Wire format of published groups and evaluation results: header fields and one msgpack map. Does not import redis.

The header can be read without decoding the payload. The payload is self-contained; arrays are `[dtype tag, shape,
raw little-endian bytes]`, so that decoding copies nothing and runs no code: no extension types, no pickle. Both ends
validate with the same function, so a group that one side can encode the other side accepts.

An invalid record raises `RecordError`, whose `what` is one word for the broken rule (`size`, `schema`, `crc`,
`format`, `field`, `identity`, `length`, `group`, `tokens`, `logp`, `spans`, `version`, `reward`, `number`) and whose
`where` is the field. A checksum is not an authentication: an accepted record is consistent, its sender may still lie.
"""

import math
import zlib
from collections.abc import Iterable, Mapping
from typing import NoReturn, TypeAlias

import msgpack  # type: ignore[import-untyped]
import numpy as np
from numpy.typing import NDArray

from isentrope.errors import RecordError
from isentrope.rollout.wire.types import EvalResult, Finish, Group, Response, incarnation_of

RECORD_SCHEMA = 1
"""Version of header and payload; another one is refused, never guessed."""

LOGP_SLACK = 1e-4
"""A log-probability may exceed 0 by this much, in nats: engines sum float32 exponentials."""

MAX_RESPONSES = 1024
MAX_ENTRIES = 256
MAX_TEXT = 1 << 16

HeaderFields: TypeAlias = dict[str, bytes | int | str]
RawHeader: TypeAlias = Mapping[str, bytes | int | str]

_GROUP_KEYS = frozenset({"seq", "attempt", "actor", "prompt", "responses", "temperature", "source", "seconds"})
_EVAL_KEYS = _GROUP_KEYS | {"name", "version"}
_RESPONSE_KEYS = frozenset({"tokens", "logp", "mask", "span_at", "span", "finish", "reward", "parts", "seed", "answer"})


def encode_group(group: Group) -> tuple[HeaderFields, bytes]:
    """Return the header fields and payload of a group, which is validated first (vocabulary aside)."""
    _validate(group, vocab_size=None, group_size=None, newest_version=None)
    payload = _pack(_group_map(group))
    return _header("group", group, payload), payload


def encode_eval(result: EvalResult) -> tuple[HeaderFields, bytes]:
    """Return the header fields and payload of an evaluation result, which is validated first."""
    _validate(result.group, vocab_size=None, group_size=None, newest_version=None)
    _validate_eval(result)
    payload = _pack({**_group_map(result.group), "name": result.name, "version": result.version})
    fields = _header("eval", result.group, payload)
    return {**fields, "name": result.name, "version": result.version}, payload


def decode_group(  # noqa: PLR0913  (an entry and four limits, of which callers know different ones)
    header: RawHeader,
    payload: bytes,
    *,
    max_bytes: int,
    vocab_size: int | None,
    group_size: int | None = None,
    newest_version: int | None = None,
) -> Group:
    """Return the group of one entry; its arrays are read-only views of `payload`.

    Args:
        header: fields as they came from the broker (values as bytes, text or integers).
        max_bytes: a longer payload is refused before it is looked at.
        vocab_size: token ids must be below; None: not checked.
        group_size: number of responses demanded; None: any.
        newest_version: no token may be from a later version; None: not checked.
    """
    fields = _open(header, payload, "group", max_bytes)
    group = _read_group(_unpack(payload, _GROUP_KEYS))
    _match(fields, {"seq": group.seq, "attempt": group.attempt, "actor": group.actor})
    _validate(group, vocab_size=vocab_size, group_size=group_size, newest_version=newest_version)
    return group


def decode_eval(header: RawHeader, payload: bytes, *, max_bytes: int, vocab_size: int | None) -> EvalResult:
    """Return the evaluation result of one entry; arguments as in `decode_group`."""
    fields = _open(header, payload, "eval", max_bytes)
    table = _unpack(payload, _EVAL_KEYS)
    group = _read_group(table)
    result = EvalResult(_text(table["name"], "name"), _integer(table["version"], "version"), group)
    _match(fields, {"seq": group.seq, "name": result.name, "version": result.version})
    _validate(group, vocab_size=vocab_size, group_size=None, newest_version=None)
    _validate_eval(result)
    return result


def split_fields(fields: Mapping[bytes, bytes]) -> tuple[RawHeader, bytes]:
    """Return the header and payload of one entry, from its fields as the broker gives them."""
    header = {key.decode(errors="replace"): value for key, value in fields.items()}
    return header, header.pop("payload", b"")


def header_text(header: RawHeader, key: str) -> str:
    """Return the field `key` as text."""
    value = header.get(key)
    if isinstance(value, bytes):
        try:
            return value.decode()
        except UnicodeDecodeError:
            _fail("field", f"{key}: not text")
    if value is None:
        _fail("field", f"{key}: missing from the header")
    return str(value)


def header_int(header: RawHeader, key: str) -> int:
    """Return the field `key` as a non-negative integer."""
    text = header_text(header, key)
    if not (text.isascii() and text.isdigit() and len(text) <= 19):
        _fail("field", f"{key}: {text[:32]!r} is not a number")
    return int(text)


def _fail(code: str, where: str) -> NoReturn:
    raise RecordError(code, where=where)


# --- encoding


def _array(values: NDArray[np.generic], tag: str) -> list[object]:
    return [tag, list(values.shape), np.ascontiguousarray(values, dtype=np.dtype(tag)).tobytes()]


def _group_map(group: Group) -> dict[str, object]:
    return {
        "seq": group.seq,
        "attempt": group.attempt,
        "actor": group.actor,
        "prompt": _array(group.prompt, "<i4"),
        "responses": [_response_map(response) for response in group.responses],
        "temperature": float(group.temperature),
        "source": group.source,
        "seconds": {name: float(value) for name, value in group.seconds.items()},
    }


def _response_map(response: Response) -> dict[str, object]:
    return {
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


def _pack(table: Mapping[str, object]) -> bytes:
    packed = msgpack.packb(table, use_bin_type=True)
    assert isinstance(packed, bytes)
    return packed


def _header(kind: str, group: Group, payload: bytes) -> HeaderFields:
    versions = np.concatenate([response.span_version for response in group.responses])
    return {
        "schema": RECORD_SCHEMA,
        "kind": kind,
        "seq": group.seq,
        "attempt": group.attempt,
        "actor": group.actor,
        "responses": len(group.responses),
        "tokens": sum(len(response.tokens) for response in group.responses),
        "version_min": int(versions.min()),
        "version_max": int(versions.max()),
        "bytes": len(payload),
        "crc": zlib.crc32(payload),
    }


# --- decoding


def _open(header: RawHeader, payload: bytes, kind: str, max_bytes: int) -> RawHeader:
    if len(payload) > max_bytes:
        _fail("size", f"{len(payload)} bytes, at most {max_bytes} are allowed")
    if header_int(header, "schema") != RECORD_SCHEMA:
        _fail("schema", f"{header_int(header, 'schema')}, this version reads {RECORD_SCHEMA}")
    if header_text(header, "kind") != kind:
        _fail("field", f"kind: {header_text(header, 'kind')[:32]!r} instead of {kind!r}")
    if header_int(header, "bytes") != len(payload):
        _fail("size", f"{len(payload)} bytes, the header says {header_int(header, 'bytes')}")
    if header_int(header, "crc") != zlib.crc32(payload):
        _fail("crc", "payload does not match its checksum")
    return header


def _match(header: RawHeader, inside: Mapping[str, int | str]) -> None:
    for key, value in inside.items():
        if header_text(header, key) != str(value):
            _fail("identity", f"{key}: header and payload differ")


def _unique(pairs: list[tuple[object, object]]) -> dict[object, object]:
    table = dict(pairs)
    if len(table) != len(pairs):
        raise ValueError("duplicate key")
    return table


def _no_extension(code: int, data: bytes) -> NoReturn:
    raise ValueError(f"extension type {code}")


def _unpack(payload: bytes, keys: frozenset[str]) -> dict[str, object]:
    try:
        table = msgpack.unpackb(
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
    return _table(table, keys, "payload")


def _table(value: object, keys: frozenset[str], where: str) -> dict[str, object]:
    if not isinstance(value, dict) or value.keys() != keys:
        _fail("field", f"{where}: not a map of exactly {', '.join(sorted(keys))}")
    return value


def _integer(value: object, where: str) -> int:
    if type(value) is not int or not 0 <= value < 1 << 64:
        _fail("field", f"{where}: not an unsigned integer")
    return value


def _real(value: object, where: str) -> float:
    if type(value) is not float:
        _fail("field", f"{where}: not a float")
    return value


def _text(value: object, where: str) -> str:
    if type(value) is not str:
        _fail("field", f"{where}: not text")
    return value


def _numbers(value: object, where: str) -> dict[str, float]:
    if not isinstance(value, dict):
        _fail("field", f"{where}: not a map")
    return {_text(name, where): _real(number, where) for name, number in value.items()}


def _read_array(value: object, tag: str, where: str) -> NDArray[np.generic]:
    if not isinstance(value, list) or len(value) != 3 or value[0] != tag or type(value[2]) is not bytes:
        _fail("field", f"{where}: not an array of {tag}")
    shape, raw = value[1], value[2]
    if not isinstance(shape, list) or len(shape) != 1 or type(shape[0]) is not int:
        _fail("length", f"{where}: shape is not [n]")
    if shape[0] < 0 or shape[0] * np.dtype(tag).itemsize != len(raw):
        _fail("length", f"{where}: shape {shape} and {len(raw)} bytes differ")
    return np.frombuffer(raw, dtype=np.dtype(tag))


def _read_group(table: Mapping[str, object]) -> Group:
    responses = table["responses"]
    if not isinstance(responses, list):
        _fail("field", "responses: not a list")
    return Group(
        seq=_integer(table["seq"], "seq"),
        attempt=_integer(table["attempt"], "attempt"),
        actor=_text(table["actor"], "actor"),
        prompt=_read_array(table["prompt"], "<i4", "prompt").view(np.int32),
        responses=tuple(_read_response(value, f"responses[{i}]") for i, value in enumerate(responses)),
        temperature=_real(table["temperature"], "temperature"),
        source=_text(table["source"], "source"),
        seconds=_numbers(table["seconds"], "seconds"),
    )


def _read_response(value: object, where: str) -> Response:
    table = _table(value, _RESPONSE_KEYS, where)
    mask = _read_array(table["mask"], "|u1", f"{where}.mask").view(np.uint8)
    if np.any(mask > 1):
        _fail("field", f"{where}.mask: values other than 0 and 1")
    finish = _text(table["finish"], f"{where}.finish")
    if finish not in tuple(Finish):
        _fail("field", f"{where}.finish: {finish[:32]!r}")
    return Response(
        tokens=_read_array(table["tokens"], "<i4", f"{where}.tokens").view(np.int32),
        logp_rollout=_read_array(table["logp"], "<f4", f"{where}.logp").view(np.float32),
        mask=mask.view(np.bool_),
        span_start=_read_array(table["span_at"], "<i4", f"{where}.span_at").view(np.int32),
        span_version=_read_array(table["span"], "<i8", f"{where}.span").view(np.int64),
        finish=Finish(finish),
        reward=_real(table["reward"], f"{where}.reward"),
        seed=_integer(table["seed"], f"{where}.seed"),
        reward_parts=_numbers(table["parts"], f"{where}.parts"),
        answer=_text(table["answer"], f"{where}.answer"),
    )


# --- validation, the same on both sides


def _validate(group: Group, *, vocab_size: int | None, group_size: int | None, newest_version: int | None) -> None:
    if not 0 <= group.seq < 1 << 63 or not 0 <= group.attempt < 1 << 31:
        _fail("number", f"seq {group.seq}, attempt {group.attempt}")
    if not 1 <= len(group.responses) <= MAX_RESPONSES:
        _fail("group", f"{len(group.responses)} responses, 1 to {MAX_RESPONSES} are allowed")
    if group_size is not None and len(group.responses) != group_size:
        _fail("group", f"{len(group.responses)} responses instead of {group_size}")
    if not (math.isfinite(group.temperature) and group.temperature > 0):
        _fail("number", f"temperature: {group.temperature}")
    _validate_numbers(group.seconds.items(), "number", "seconds")
    _validate_text({"actor": group.actor, "source": group.source})
    if group.prompt.ndim != 1 or len(group.prompt) == 0:
        _fail("length", "prompt: no tokens")
    _validate_ids(group.prompt, vocab_size, "prompt")
    for i, response in enumerate(group.responses):
        _validate_response(response, vocab_size, newest_version, f"responses[{i}]")


def _validate_response(response: Response, vocab_size: int | None, newest_version: int | None, where: str) -> None:
    count = len(response.tokens)
    if count == 0 or {response.tokens.shape, response.logp_rollout.shape, response.mask.shape} != {(count,)}:
        _fail("length", f"{where}: {count} tokens, logp {response.logp_rollout.shape}, mask {response.mask.shape}")
    _validate_ids(response.tokens, vocab_size, f"{where}.tokens")
    if not np.all(np.isfinite(response.logp_rollout)) or np.any(response.logp_rollout > LOGP_SLACK):
        _fail("logp", f"{where}: not finite, or above 0")
    start, version = response.span_start, response.span_version
    if start.ndim != 1 or start.shape != version.shape or len(start) == 0:
        _fail("spans", f"{where}: {start.shape} starts, {version.shape} versions")
    if start[0] != 0 or np.any(start[1:] <= start[:-1]) or start[-1] >= count:
        _fail("spans", f"{where}: starts do not ascend from 0 below {count}")
    if np.any(incarnation_of(version) < 1) or (newest_version is not None and np.any(version > newest_version)):
        _fail("version", f"{where}: a version that was never published")
    if not math.isfinite(response.reward):
        _fail("reward", f"{where}: {response.reward}")
    _validate_numbers(response.reward_parts.items(), "reward", f"{where}.parts")
    _validate_text({f"{where}.answer": response.answer})
    if not 0 <= response.seed < 1 << 64:
        _fail("number", f"{where}.seed: {response.seed}")


def _validate_ids(ids: NDArray[np.int32], vocab_size: int | None, where: str) -> None:
    if np.any(ids < 0) or (vocab_size is not None and np.any(ids >= vocab_size)):
        _fail("tokens", f"{where}: an id outside the vocabulary")


def _validate_numbers(numbers: Iterable[tuple[str, float]], code: str, where: str) -> None:
    named = list(numbers)
    if len(named) > MAX_ENTRIES:
        _fail(code, f"{where}: {len(named)} entries, at most {MAX_ENTRIES} are allowed")
    for name, number in named:
        if not math.isfinite(number):
            _fail(code, f"{where}.{name[:32]}: {number}")
        _validate_text({where: name})


def _validate_text(texts: Mapping[str, str]) -> None:
    for where, text in texts.items():
        try:
            size = len(text.encode())
        except UnicodeEncodeError:
            _fail("field", f"{where}: not valid text")
        if size > MAX_TEXT:
            _fail("field", f"{where}: {size} bytes of text, at most {MAX_TEXT} are allowed")


def _validate_eval(result: EvalResult) -> None:
    _validate_text({"name": result.name})
    for i, response in enumerate(result.group.responses):
        if np.any(response.span_version != result.version):
            _fail("version", f"responses[{i}]: not answered by {result.version} alone")

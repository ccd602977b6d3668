"""Wire format of published groups and evaluation results: header fields and a payload. Does not import redis.

The header can be read without decoding the payload, which is self-contained (`payload.py`). Both ends validate with the
same functions (`validation.py`), so a group that one side can encode the other side accepts.

An invalid record raises `RecordError`, whose `what` is one word for the broken rule (`size`, `schema`, `crc`,
`format`, `field`, `identity`, `length`, `group`, `tokens`, `logp`, `spans`, `version`, `reward`, `number`, `run`) and
whose `where` is the field. A checksum is not an authentication: an accepted record is consistent, its sender may still
lie; `run` is the word of a record that contradicts what only the run can say.
"""

import zlib
from collections.abc import Iterable, Mapping
from typing import TypeAlias

import numpy as np

from isentrope.rollout.units import MAX_RESPONSES
from isentrope.rollout.wire.payload import (
    GROUP_KEYS,
    GROUP_OPTIONS,
    group_map,
    pack,
    read_group,
    read_integer,
    read_table,
    read_text,
    unpack,
)
from isentrope.rollout.wire.types import EvalResult, Group, Missing, MissingReason
from isentrope.rollout.wire.validation import Limits, refuse, validate_eval, validate_group

RECORD_SCHEMA = 2
"""Version of header and payload that is written."""

READ_SCHEMAS = (1, 2)
"""Versions that are read; another one is refused, never guessed. Schema 1 has no `missing` and no optional fields: all
responses that were asked for are there."""

MAX_TOKENS = (1 << 31) - 1
"""Largest number of tokens that a tombstone tells of one response."""

HeaderFields: TypeAlias = dict[str, bytes | int | str]
RawHeader: TypeAlias = Mapping[str, bytes | int | str]


def encode_group(group: Group) -> tuple[HeaderFields, bytes]:
    """Return the header fields and payload of a group, which is validated first (vocabulary aside)."""
    validate_group(group, Limits())
    payload = pack(group_map(group))
    return _header("group", group, payload), payload


def encode_eval(result: EvalResult) -> tuple[HeaderFields, bytes]:
    """Return the header fields and payload of an evaluation result, which is validated first."""
    validate_group(result.group, Limits())
    validate_eval(result)
    payload = pack({**group_map(result.group), "name": result.name, "version": result.version})
    fields = _header("eval", result.group, payload)
    return {**fields, "name": result.name, "version": result.version}, payload


def decode_group(header: RawHeader, payload: bytes, *, max_bytes: int, limits: Limits) -> Group:
    """Return the group of one entry; its arrays are read-only views of `payload`.

    Args:
        header: fields as they came from the broker (values as bytes, text or integers).
        max_bytes: a longer payload is refused before it is looked at.
        limits: facts of the run that the group must fit.
    """
    schema = _open(header, payload, "group", max_bytes)
    group = read_group(_table(payload, schema, frozenset()), schema)
    _match(header, {"seq": group.seq, "attempt": group.attempt, "actor": group.actor})
    validate_group(group, limits)
    return group


def decode_eval(header: RawHeader, payload: bytes, *, max_bytes: int, limits: Limits) -> EvalResult:
    """Return the evaluation result of one entry; arguments as in `decode_group`."""
    schema = _open(header, payload, "eval", max_bytes)
    table = _table(payload, schema, frozenset({"name", "version"}))
    group = read_group(table, schema)
    result = EvalResult(read_text(table["name"], "name"), read_integer(table["version"], "version"), group)
    _match(header, {"seq": group.seq, "name": result.name, "version": result.version})
    validate_group(group, limits)
    validate_eval(result)
    return result


def encode_missing(missing: Iterable[Missing]) -> str:
    """Return the header field `missing` of a tombstone: reason and tokens of each response that failed."""
    return ",".join(f"{int(each.reason)}:{each.tokens}" for each in missing)


def decode_missing(header: RawHeader) -> tuple[Missing, ...]:
    """Return the missing responses that a tombstone tells of, by place; none if it tells of none or is not valid."""
    if "missing" not in header:
        return ()
    try:
        parts = header_text(header, "missing").split(",")[:MAX_RESPONSES]
        pairs = [[int(number) for number in part.split(":")] for part in parts]
        found = [(MissingReason(reason), min(max(tokens, 0), MAX_TOKENS)) for reason, tokens in pairs]
        return tuple(Missing(index, reason, tokens) for index, (reason, tokens) in enumerate(found))
    except ValueError:  # RecordError is one
        return ()


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
            refuse("field", f"{key}: not text")
    if value is None:
        refuse("field", f"{key}: missing from the header")
    return str(value)


def header_int(header: RawHeader, key: str) -> int:
    """Return the field `key` as a non-negative integer."""
    text = header_text(header, key)
    if not (text.isascii() and text.isdigit() and len(text) <= 19):
        refuse("field", f"{key}: {text[:32]!r} is not a number")
    return int(text)


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


def _open(header: RawHeader, payload: bytes, kind: str, max_bytes: int) -> int:
    """Check a payload against its header; return the record's schema."""
    if len(payload) > max_bytes:
        refuse("size", f"{len(payload)} bytes, at most {max_bytes} are allowed")
    schema = header_int(header, "schema")
    if schema not in READ_SCHEMAS:
        refuse("schema", f"{schema}, this version reads {' and '.join(map(str, READ_SCHEMAS))}")
    if header_text(header, "kind") != kind:
        refuse("field", f"kind: {header_text(header, 'kind')[:32]!r} instead of {kind!r}")
    if header_int(header, "bytes") != len(payload):
        refuse("size", f"{len(payload)} bytes, the header says {header_int(header, 'bytes')}")
    if header_int(header, "crc") != zlib.crc32(payload):
        refuse("crc", "payload does not match its checksum")
    return schema


def _table(payload: bytes, schema: int, more: frozenset[str]) -> dict[str, object]:
    """Return the map of a payload: the keys of a group of `schema`, and `more`."""
    keys, options = GROUP_KEYS | more, frozenset[str]()
    if schema > 1:
        keys, options = keys | {"missing"}, GROUP_OPTIONS
    return read_table(unpack(payload), keys, options, "payload")


def _match(header: RawHeader, inside: Mapping[str, int | str]) -> None:
    for key, value in inside.items():
        if header_text(header, key) != str(value):
            refuse("identity", f"{key}: header and payload differ")

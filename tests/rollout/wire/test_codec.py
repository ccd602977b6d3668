"""What is encoded comes back equal; what is damaged, forged or foreign is a typed error, before it costs anything.

`ISENTROPE_TEST_SCALE=100` makes the fuzz tests as long as the nightly run wants them (1,000,000 records each).
"""

import dataclasses
import os
import pickle
import random
import tracemalloc
import zlib
from collections import Counter
from collections.abc import Callable, Iterator
from typing import Any

import msgpack
import numpy as np
import pytest
import totals
from hypothesis import given, settings
from wire_records import VOCABULARY, full_group, groups, make_group, make_response

from isentrope.errors import RecordError
from isentrope.rollout.wire.codec import (
    RECORD_SCHEMA,
    decode_eval,
    decode_group,
    encode_eval,
    encode_group,
    header_int,
    split_fields,
)
from isentrope.rollout.wire.types import (
    Demonstration,
    EvalResult,
    Finish,
    Group,
    Missing,
    MissingReason,
    SamplingMask,
    Steps,
    version_of,
)
from isentrope.rollout.wire.validation import TIES, Limits

SCALE = int(os.environ.get("ISENTROPE_TEST_SCALE", "1"))
LIMIT = 1 << 20


def wire_form(header: dict[str, Any]) -> dict[str, bytes]:
    """A header as the broker returns it."""
    return {key: value if isinstance(value, bytes) else str(value).encode() for key, value in header.items()}


def decode(header: dict[str, Any], payload: bytes, max_bytes: int = LIMIT, **limits: Any) -> Group:
    return decode_group(header, payload, max_bytes=max_bytes, limits=Limits(**{"vocab_size": VOCABULARY, **limits}))


def sealed(header: dict[str, Any], payload: bytes) -> dict[str, Any]:
    """The header with length and checksum of another payload: what a hostile or broken sender can always make."""
    return {**header, "bytes": len(payload), "crc": zlib.crc32(payload)}


def packed(value: object) -> bytes:
    data = msgpack.packb(value)
    assert isinstance(data, bytes)
    return data


def assert_equal(one: Any, two: Any) -> None:
    """Equality of records, arrays by dtype, shape and bits."""
    assert type(one) is type(two)
    if isinstance(one, np.ndarray):
        assert one.dtype == two.dtype and one.shape == two.shape and one.tobytes() == two.tobytes()
    elif dataclasses.is_dataclass(one):
        for field in dataclasses.fields(one):
            assert_equal(getattr(one, field.name), getattr(two, field.name))
    elif isinstance(one, tuple):
        assert len(one) == len(two)
        for a, b in zip(one, two, strict=True):
            assert_equal(a, b)
    else:
        assert one == two


def assert_holds(group: Group, newest_version: int) -> None:
    """What training relies on, written down without the codec."""
    assert group.seq >= 0 and group.attempt >= 0 and group.temperature > 0
    assert len(group.prompt) > 0 and len(group.responses) > 0
    lost = [each.index for each in group.missing]
    assert lost == sorted(set(lost)) and all(0 <= index < len(group.responses) + len(lost) for index in lost)
    assert group.greedy_reward is None or np.isfinite(group.greedy_reward)
    for demonstration in group.demonstrations:
        assert len(demonstration.tokens) > 0 and np.isfinite(demonstration.reward)
        assert all(0 <= token < VOCABULARY for token in demonstration.tokens.tolist())
    assert all(0 <= token < VOCABULARY for token in group.prompt.tolist())
    for response in group.responses:
        count = len(response.tokens)
        assert count == len(response.logp_rollout) == len(response.mask) > 0
        assert all(0 <= token < VOCABULARY for token in response.tokens.tolist())
        assert all(-np.inf < value <= 1e-4 for value in response.logp_rollout.tolist())
        assert set(response.mask.view(np.uint8).tolist()) <= {0, 1}
        starts = response.span_start.tolist()
        assert starts[0] == 0 and starts == sorted(set(starts)) and starts[-1] < count
        assert all(0 < version <= newest_version for version in response.versions().tolist())
        assert np.isfinite([response.reward, *response.reward_parts.values()]).all()
        if response.steps is not None:
            edges = np.stack([response.steps.start, response.steps.end], 1).ravel().tolist()
            assert edges == sorted(edges) and all(0 <= edge <= count for edge in edges)
            assert len(response.steps.correct) * 2 == len(edges)
        if (kept := response.sampling_mask) is not None:
            sets = [kept.ids[a:b].tolist() for a, b in zip(kept.start, kept.start[1:], strict=False)]
            assert sum(map(len, sets)) == len(kept.ids) and len(sets) == count
            assert all(token in ids for token, ids in zip(response.tokens.tolist(), sets, strict=True) if ids)
            assert all(ids == sorted(set(ids)) and ids[0] >= 0 and ids[-1] < VOCABULARY for ids in sets if ids)
        if response.routing is not None:
            assert count <= len(response.routing) < count + len(group.prompt) and response.routing.ndim == 3


# --- round trip


@settings(max_examples=40)
@given(groups())
def test_a_group_comes_back_bit_by_bit(group: Group) -> None:
    header, payload = encode_group(group)
    assert_equal(decode(wire_form(header), payload), group)


@settings(max_examples=40)
@given(groups())
def test_an_evaluation_result_comes_back_bit_by_bit(group: Group) -> None:
    version = version_of(3, 4)
    pinned = [dataclasses.replace(r, span_version=np.full_like(r.span_version, version)) for r in group.responses]
    result = EvalResult("held-out", version, dataclasses.replace(group, responses=tuple(pinned)))
    header, payload = encode_eval(result)
    assert_equal(decode_eval(wire_form(header), payload, max_bytes=LIMIT, limits=Limits(VOCABULARY)), result)


@settings(max_examples=40)
@given(groups())
def test_the_header_tells_size_and_versions_without_decoding(group: Group) -> None:
    header, payload = encode_group(group)
    raw = {key.encode(): value for key, value in wire_form(header).items()}
    fields, split = split_fields({**raw, b"payload": payload})
    assert split == payload
    assert header_int(fields, "tokens") == sum(len(r.tokens) for r in group.responses)
    assert header_int(fields, "version_max") == max(r.versions().max() for r in group.responses)
    assert header_int(fields, "version_min") == min(r.versions().min() for r in group.responses)


def test_decoding_copies_no_array() -> None:
    header, payload = encode_group(make_group())
    response = decode(header, payload).responses[0]
    assert not response.tokens.flags.writeable and not response.tokens.flags.owndata


SCHEMA_1 = (
    {
        "schema": 1,
        "kind": "group",
        "seq": 41,
        "attempt": 1,
        "actor": "a1",
        "responses": 2,
        "tokens": 5,
        "version_min": 2097154,
        "version_max": 2097155,
        "bytes": 465,
        "crc": 2243344862,
    },
    bytes.fromhex(
        "88a373657129a7617474656d707401a56163746f72a26131a670726f6d707493a33c69349102c4080100000002000000a9726573706f"
        "6e736573928aa6746f6b656e7393a33c69349103c40c010000000200000003000000a46c6f677093a33c66349103c40c000000bf0000"
        "00bf000000bfa46d61736b93a37c75319103c403010001a77370616e5f617493a33c69349102c4080000000002000000a47370616e93"
        "a33c69389102c41002002000000000000300200000000000a666696e697368a473746f70a6726577617264cb3ff0000000000000a570"
        "6172747381a166cb3fe0000000000000a47365656407a6616e73776572a234328aa6746f6b656e7393a33c69349102c4080100000002"
        "000000a46c6f677093a33c66349102c408000000bf000000bfa46d61736b93a37c75319102c4020101a77370616e5f617493a33c6934"
        "9101c40400000000a47370616e93a33c69389101c4080300200000000000a666696e697368a66c656e677468a6726577617264cbbff0"
        "000000000000a5706172747380a47365656407a6616e73776572a0ab74656d7065726174757265cb3ff0000000000000a6736f757263"
        "65a46d617468a77365636f6e647381a867656e6572617465cb3ff8000000000000"
    ),
)
"""Header and payload as the version of schema 1 wrote them."""


def test_a_record_of_schema_1_is_read_and_is_whole() -> None:
    version = version_of(2, 3)
    first = make_response(
        version,
        span_start=np.array([0, 2], np.int32),
        span_version=np.array([version - 1, version], np.int64),
        mask=np.array([True, False, True]),
        reward_parts={"f": 0.5},
        answer="42",
    )
    second = make_response(version, tokens=2, finish=Finish.LENGTH, reward=-1.0)
    written = make_group(41, attempt=1, source="math", seconds={"generate": 1.5}, responses=(first, second))
    header, payload = SCHEMA_1
    assert_equal(decode(wire_form(header), payload, group_size=2), written)
    with pytest.raises(RecordError, match="group"):
        decode(header, payload, group_size=3)


def test_a_record_of_schema_1_has_no_field_of_schema_2() -> None:
    header, payload = encode_group(full_group())
    with pytest.raises(RecordError, match="field"):
        decode({**header, "schema": 1}, payload)


def test_missing_responses_count_among_those_that_were_asked_for() -> None:
    header, payload = encode_group(full_group())
    assert decode(header, payload, group_size=3).missing == full_group().missing
    with pytest.raises(RecordError, match="group"):
        decode(header, payload, group_size=2)


@given(groups())
@settings(max_examples=40)
def test_what_only_some_runs_supply_costs_the_others_no_byte(group: Group) -> None:
    plain = dataclasses.replace(group, greedy_reward=None, demonstrations=())
    bare = [dataclasses.replace(each, steps=None, sampling_mask=None, routing=None) for each in plain.responses]
    table = msgpack.unpackb(encode_group(dataclasses.replace(plain, responses=tuple(bare)))[1])
    assert not {"greedy_reward", "demonstrations"} & table.keys()
    assert not any({"steps", "sampling_mask", "routing"} & each.keys() for each in table["responses"])


# --- refusals, on both ends


BAD: dict[str, tuple[str, Callable[[], Group]]] = {
    "no responses": ("group", lambda: make_group(responses=())),
    "no prompt": ("length", lambda: make_group(prompt=np.zeros(0, np.int32))),
    "negative id": ("tokens", lambda: make_group(prompt=np.array([-1], np.int32))),
    "no tokens": ("length", lambda: one(tokens=0)),
    "unequal lengths": ("length", lambda: one(logp_rollout=np.zeros(2, np.float32))),
    "nan log-prob": ("logp", lambda: one(logp_rollout=np.full(3, np.nan, np.float32))),
    "positive log-prob": ("logp", lambda: one(logp_rollout=np.full(3, 0.1, np.float32))),
    "first span late": ("spans", lambda: one(span_start=np.array([1], np.int32))),
    "spans unsorted": ("spans", lambda: spans([0, 2, 1])),
    "span past the end": ("spans", lambda: spans([0, 3])),
    "version never published": ("version", lambda: one(span_version=np.array([5], np.int64))),
    "nan reward": ("reward", lambda: one(reward=float("nan"))),
    "infinite part": ("reward", lambda: one(reward_parts={"format": float("inf")})),
    "huge reward": ("reward", lambda: one(reward=1e308)),
    "huge part": ("reward", lambda: one(reward_parts={"format": -1e308})),
    "temperature 0": ("number", lambda: make_group(temperature=0.0)),
    "seed": ("number", lambda: one(seed=-1)),
    "lone surrogate": ("field", lambda: make_group(actor="\ud800")),
    "long answer": ("field", lambda: one(answer="a" * 70_000)),
    "missing twice": ("group", lambda: lacking(Missing(0, LOST), Missing(0, LOST))),
    "missing beyond the group": ("group", lambda: lacking(Missing(3, LOST))),
    "missing and all the others": ("group", lambda: lacking(*(Missing(i, LOST) for i in range(1024)))),
    "negative tokens of a missing one": ("number", lambda: lacking(Missing(0, LOST, -1))),
    "nan greedy reward": ("reward", lambda: make_group(greedy_reward=float("nan"))),
    "huge greedy reward": ("reward", lambda: make_group(greedy_reward=1e308)),
    "empty demonstration": ("length", lambda: make_group(demonstrations=(Demonstration(ints(), 1.0),))),
    "nan demonstration": ("reward", lambda: make_group(demonstrations=(Demonstration(ints(1), float("nan")),))),
    "many demonstrations": ("group", lambda: make_group(demonstrations=(Demonstration(ints(1), 1.0),) * 65)),
    "step without end": ("length", lambda: one(steps=Steps(ints(0), ints(), np.ones(1, np.bool_)))),
    "empty step": ("spans", lambda: one(steps=Steps(ints(1), ints(1), np.ones(1, np.bool_)))),
    "step past the end": ("spans", lambda: one(steps=Steps(ints(1), ints(4), np.ones(1, np.bool_)))),
    "overlapping steps": ("spans", lambda: one(steps=Steps(ints(0, 1), ints(2, 3), np.ones(2, np.bool_)))),
    "mask of fewer tokens": ("length", lambda: one(sampling_mask=SamplingMask(ints(1), ints(0, 1)))),
    "mask starts fall": ("spans", lambda: one(sampling_mask=SamplingMask(ints(1, 2), ints(0, 2, 1, 2)))),
    "mask without its token": ("tokens", lambda: one(sampling_mask=SamplingMask(ints(2), ints(0, 1, 1, 1)))),
    "mask with an id twice": ("tokens", lambda: one(sampling_mask=SamplingMask(ints(1, 1), ints(0, 2, 2, 2)))),
    "routing of fewer tokens": ("length", lambda: one(routing=np.zeros((2, 1, 1), np.uint8))),
    "routing of more tokens": ("length", lambda: one(routing=np.zeros((5, 1, 1), np.uint8))),
    "routing without layers": ("length", lambda: one(routing=np.zeros((3, 0, 1), np.uint8))),
    "flat routing": ("length", lambda: one(routing=np.zeros(3, np.uint8))),
}

LOST = MissingReason.REWARD


def ints(*values: int) -> Any:
    return np.array(values, np.int32)


def lacking(*missing: Missing) -> Group:
    return make_group(missing=missing)


def one(**changes: Any) -> Group:
    return make_group(responses=(make_response(version_of(1, 0), **changes),))


def spans(starts: list[int]) -> Group:
    return one(span_start=np.array(starts, np.int32), span_version=np.full(len(starts), version_of(1, 0), np.int64))


@pytest.mark.parametrize("name", BAD)
def test_a_sender_cannot_encode_what_a_reader_would_refuse(name: str) -> None:
    code, build = BAD[name]
    with pytest.raises(RecordError) as caught:
        encode_group(build())
    assert caught.value.what == code


@pytest.mark.parametrize(
    ("limits", "code"),
    [
        ({"max_bytes": 10}, "size"),
        ({"vocab_size": 3}, "tokens"),
        ({"group_size": 3}, "group"),
        ({"newest_version": version_of(1, 0) - 1}, "version"),
    ],
)
def test_a_reader_refuses_what_does_not_fit_its_run(limits: dict[str, Any], code: str) -> None:
    header, payload = encode_group(make_group())
    with pytest.raises(RecordError) as caught:
        decode(header, payload, **limits)
    assert caught.value.what == code


def test_a_sampling_mask_has_as_many_tokens_as_the_run_keeps_and_a_few_of_equal_likelihood() -> None:
    at_most = 1 + TIES
    kept = SamplingMask(np.arange(at_most + 1, dtype=np.int32), ints(0, at_most + 1, at_most + 1, at_most + 1))
    header, payload = encode_group(one(sampling_mask=kept))
    decode(header, payload, top_k=2)
    with pytest.raises(RecordError) as caught:
        decode(header, payload, top_k=1)
    assert caught.value.what == "length"


@pytest.mark.parametrize(
    ("changes", "code"),
    [
        ({"schema": RECORD_SCHEMA + 1}, "schema"),
        ({"kind": "eval"}, "field"),
        ({"bytes": 1}, "size"),
        ({"crc": 1}, "crc"),
        ({"seq": 1}, "identity"),
        ({"attempt": 1}, "identity"),
        ({"actor": "a2"}, "identity"),
        ({"seq": b"\xff"}, "field"),
        ({"schema": "-1"}, "field"),
    ],
)
def test_a_header_that_does_not_fit_its_payload_is_refused(changes: dict[str, Any], code: str) -> None:
    header, payload = encode_group(make_group())
    with pytest.raises(RecordError) as caught:
        decode({**header, **changes}, payload)
    assert caught.value.what == code


def test_a_missing_header_field_is_refused() -> None:
    header, payload = encode_group(make_group())
    for key in ("schema", "kind", "seq", "attempt", "actor", "bytes", "crc"):
        with pytest.raises(RecordError):
            decode({name: value for name, value in header.items() if name != key}, payload)


def test_an_evaluation_result_of_two_versions_is_refused() -> None:
    group = make_group(version=version_of(1, 1))
    with pytest.raises(RecordError, match="version"):
        encode_eval(EvalResult("held-out", version_of(1, 0), group))


# --- hostile payloads


BOMBS = {
    "nesting": b"\x91" * 100_000,
    "array length": b"\xdd\xff\xff\xff\xff",
    "map length": b"\xdf\xff\xff\xff\xff",
    "binary length": b"\xc6\xff\xff\xff\xff",
    "text length": b"\xdb\xff\xff\xff\xff",
    "extension": packed(msgpack.ExtType(1, b"x" * 100)),
    "timestamp": packed(msgpack.Timestamp(1, 1)),
    "pickle": pickle.dumps({"seq": 0}),
    "empty": b"",
    "number": b"\x01",
}


@pytest.mark.parametrize("name", BOMBS)
def test_a_bomb_costs_no_memory(name: str) -> None:
    header, _ = encode_group(make_group())
    payload = BOMBS[name]
    tracemalloc.start()
    with pytest.raises(RecordError) as caught:
        decode(sealed(header, payload), payload)
    _, peak = tracemalloc.get_traced_memory()
    tracemalloc.stop()
    assert caught.value.what in {"format", "field"}
    assert peak < 10 << 20


def test_the_size_is_checked_before_anything_is_read() -> None:
    """A header that cannot be read does not matter either: nothing of a record that is too large is looked at."""
    with pytest.raises(RecordError) as caught:
        decode({}, bytes(LIMIT + 1))
    assert caught.value.what == "size"


def test_extra_missing_and_duplicate_keys_and_trailing_bytes_are_refused() -> None:
    header, payload = encode_group(make_group())
    table = msgpack.unpackb(payload)
    missing = {key: value for key, value in table.items() if key != "source"}
    duplicate = b"\x82" + 2 * (packed("seq") + b"\x01")
    for forged in (packed({**table, "more": 1}), packed(missing), duplicate, payload + b"\xc0"):
        with pytest.raises(RecordError):
            decode(sealed(header, forged), forged)


# --- fuzz


def damaged(payload: bytes, rng: random.Random) -> bytes:
    """The payload with a few bytes changed, lost, repeated or inserted; never equal to it."""
    data = bytearray(payload)
    for _ in range(rng.randint(1, 4)):
        place = rng.randrange(len(data))
        match rng.randrange(5):
            case 0:
                data[place] = rng.randrange(256)
            case 1:
                data[place] ^= 1 << rng.randrange(8)
            case 2:
                del data[place : place + rng.randint(1, 8)]
            case 3:
                data[place:place] = data[place : place + rng.randint(1, 8)]
            case 4:
                data[place:place] = rng.randbytes(rng.randint(1, 4))
        if not data:
            break
    return bytes(data) if bytes(data) != payload else payload + b"\0"


NASTY: list[Any] = [
    None,
    True,
    -1,
    0,
    1,
    1 << 63,
    0.0,
    -1.5,
    float("nan"),
    float("inf"),
    "",
    "x",
    b"",
    b"\0" * 12,
    [],
    {},
    ["<i4"],
]


def replaced(table: Any, rng: random.Random) -> Any:
    """The structure with one node, at any depth, replaced by something nasty or by another node."""
    if isinstance(table, dict) and table and rng.random() < 0.8:
        key = rng.choice(list(table))
        return {**table, key: replaced(table[key], rng)}
    if isinstance(table, list) and table and rng.random() < 0.8:
        place = rng.randrange(len(table))
        return [*table[:place], replaced(table[place], rng), *table[place + 1 :]]
    if isinstance(table, bytes) and table and rng.random() < 0.5:
        return damaged(table, rng)
    return rng.choice(NASTY)


def forgeries(count: int, seed: int = 0) -> Iterator[tuple[dict[str, Any], bytes]]:
    rng = random.Random(seed)
    records = [encode_group(make_group(seq, responses=group)) for seq, group in enumerate(sample_responses())]
    records += [encode_group(full_group(seq)) for seq in range(2)]
    for _ in range(count):
        header, payload = rng.choice(records)
        if rng.random() < 0.5:
            yield header, damaged(payload, rng)
        else:
            yield header, packed(replaced(msgpack.unpackb(payload), rng))


def sample_responses() -> list[tuple[Any, ...]]:
    version = version_of(2, 3)
    spans = {"span_start": np.array([0, 2], np.int32), "span_version": np.array([version - 1, version], np.int64)}
    return [
        (make_response(version),),
        (make_response(version, **spans, reward_parts={"correct": 1.0, "format": 0.5}, answer="42"),) * 2,
        (make_response(version, tokens=20), make_response(version, tokens=1)),
    ]


def test_no_damaged_record_passes_its_checksum() -> None:
    for header, payload in forgeries(10_000 * SCALE):
        try:
            decode(header, payload)
        except RecordError:
            continue
        assert (header["bytes"], header["crc"]) == (len(payload), zlib.crc32(payload)), "accepted, yet damaged"


def test_a_record_whose_checksum_was_recomputed_is_refused_or_still_consistent() -> None:
    """A checksum is no authentication: what passes must at least be something one can train on, and encode again."""
    accepted = 0
    for header, payload in forgeries(10_000 * SCALE):
        try:
            group = decode(sealed(header, payload), payload, newest_version=version_of(2, 3))
        except RecordError:
            continue
        accepted += 1
        assert_holds(group, version_of(2, 3))
        again, repacked = encode_group(group)
        assert_equal(decode(again, repacked), group)
    assert accepted > 0, "the forgeries are too easy"


@pytest.mark.soak
@pytest.mark.parametrize("seed", range(1, 21))
def test_a_million_damaged_records_end_nothing(seed: int) -> None:
    """Half of them with the checksum as it was, half with one made anew."""
    counts = Counter(refused=0)
    for header, payload in forgeries(50_000, seed):
        for made_anew in (False, True):
            counts["records, checksum made anew" if made_anew else "records, checksum kept"] += 1
            try:
                said = sealed(header, payload) if made_anew else header
                group = decode(said, payload, newest_version=version_of(2, 3))
            except RecordError:
                counts["refused"] += 1
                continue
            counts["accepted, checksum made anew" if made_anew else "accepted, and not changed"] += 1
            if made_anew:
                assert_holds(group, version_of(2, 3))
            else:
                assert (header["bytes"], header["crc"]) == (len(payload), zlib.crc32(payload)), "accepted, yet damaged"
    totals.add("corrupted records", str(seed), counts | {"other errors": 0, "accepted that the checker refuses": 0})

"""Manifests promise bytes; `verify` notices every way of not keeping the promise."""

import hashlib
from pathlib import Path

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from pydantic import ValidationError

from isentrope.errors import StorageError
from isentrope.rollout.wire.proof import Canary, TensorFacts, TensorTable, parse_tensors, read_canary
from isentrope.rollout.wire.types import version_of
from isentrope.rollout.wire.weights import (
    Announcement,
    Manifest,
    Shard,
    make_manifest,
    prune,
    shard_of,
    verify,
    version_folder,
)

TENSORS = {"a.weight": TensorFacts("float32", (3, 5), "0a"), "b.weight": TensorFacts("float32", (7,), "0b")}
CANARY = Canary(tokens=(1, 2, 3), logp=(-0.5, -1.25))
VERSION = version_of(3, 12)


def publish(output_dir: Path, version: int = VERSION, contents: tuple[bytes, ...] = (b"first", b"second")) -> Manifest:
    folder = version_folder(output_dir, version)
    folder.mkdir(parents=True)
    files = [f"shard-{i}.safetensors" for i in range(len(contents))]
    for file, content in zip(files, contents, strict=True):
        (folder / file).write_bytes(content)
    shards = [shard_of(folder, file) for file in files]
    return make_manifest(folder, version=version, tensors=TENSORS, shards=shards, canary=CANARY)


def test_a_manifest_comes_back_from_its_file_and_verifies(tmp_path: Path) -> None:
    manifest = publish(tmp_path)
    folder = version_folder(tmp_path, VERSION)
    written = (folder / "manifest.json").read_text()
    assert Manifest.model_validate_json(written).model_copy(update={"folder": manifest.folder}) == manifest
    assert str(tmp_path) not in written, "it says where it lies"
    assert verify(manifest) == [folder / "shard-0.safetensors", folder / "shard-1.safetensors"]
    assert (manifest.batch, manifest.incarnation) == (12, 3)
    own = ["canary.json", "manifest.json", "tensors.json"]
    assert sorted(path.name for path in folder.iterdir()) == sorted([*own, *(s.file for s in manifest.shards)])
    assert parse_tensors((folder / "tensors.json").read_bytes()) == TENSORS
    assert read_canary(folder) == CANARY


def test_an_announcement_of_an_earlier_version_of_this_program_is_read(tmp_path: Path) -> None:
    manifest = publish(tmp_path)
    bare = manifest.model_dump_json(), manifest.model_dump() | {"folder": "/elsewhere/weights/1"}
    assert Announcement.model_validate_json(bare[0]).manifest.digest == manifest.digest
    assert Announcement.model_validate(bare[1]).depots == ()


def test_equal_weights_have_equal_digests_wherever_they_lie(tmp_path: Path) -> None:
    one, two = publish(tmp_path / "one"), publish(tmp_path / "two")
    assert one.digest == two.digest
    assert publish(tmp_path / "three", contents=(b"first", b"second!")).digest != one.digest


@settings(suppress_health_check=[HealthCheck.function_scoped_fixture], deadline=None, max_examples=50)
@given(data=st.data(), content=st.binary(min_size=1, max_size=64))
def test_any_changed_byte_is_noticed(tmp_path: Path, data: st.DataObject, content: bytes) -> None:
    shard = tmp_path / "s"
    shard.write_bytes(content)
    manifest = make_manifest(tmp_path, version=VERSION, tensors=TENSORS, shards=[shard_of(tmp_path, "s")])
    place = data.draw(st.integers(0, len(content) - 1))
    changed = bytearray(content)
    changed[place] ^= data.draw(st.integers(1, 255))
    shard.write_bytes(bytes(changed))
    with pytest.raises(StorageError, match="another digest") as caught:
        verify(manifest)
    assert caught.value.where == str(shard)
    assert manifest.shards[0].digest in caught.value.what


def test_a_missing_or_shortened_shard_is_named(tmp_path: Path) -> None:
    manifest = publish(tmp_path)
    shard = version_folder(tmp_path, VERSION) / manifest.shards[1].file
    shard.write_bytes(b"secon")
    with pytest.raises(StorageError, match="another size: 5 bytes instead of 6 bytes"):
        verify(manifest)
    shard.unlink()
    with pytest.raises(StorageError, match="No such file") as caught:
        verify(manifest)
    assert caught.value.where == str(shard)


def test_a_manifest_whose_fields_were_changed_is_refused(tmp_path: Path) -> None:
    manifest = publish(tmp_path)
    with pytest.raises(StorageError, match="another digest"):
        verify(manifest.model_copy(update={"version": manifest.version + 1}))


@pytest.mark.parametrize("file", ["../model.safetensors", "/etc/passwd", "", ".", "a/b", "a\n"])
def test_a_manifest_cannot_point_outside_its_folder(file: str) -> None:
    with pytest.raises(ValidationError):
        Shard(file=file, size_bytes=0, digest="")


@pytest.mark.parametrize("file", ["tensors.json", "canary.json"])
def test_what_proves_a_version_is_covered_by_its_digest(tmp_path: Path, file: str) -> None:
    manifest = publish(tmp_path)
    path = version_folder(tmp_path, VERSION) / file
    path.write_text(path.read_text().replace("3", "4"))
    with pytest.raises(StorageError, match="another digest") as caught:
        verify(manifest)
    assert caught.value.where == str(path)


def test_the_digest_sees_name_dtype_shape_and_bits_but_not_the_order(tmp_path: Path) -> None:
    def digest(tensors: TensorTable) -> str:
        return make_manifest(tmp_path, version=VERSION, tensors=tensors, shards=[]).digest

    a, b = TENSORS["a.weight"], TENSORS["b.weight"]
    changed = [a._replace(dtype="bfloat16"), a._replace(shape=(5, 3)), a._replace(bits="0c")]
    others = [{"a.weight": other, "b.weight": b} for other in changed] + [{"c.weight": a, "b.weight": b}]
    assert digest({"b.weight": b, "a.weight": a}) == digest(TENSORS)
    assert digest(TENSORS) not in {digest(other) for other in others}


def test_a_shard_that_is_not_there_is_named(tmp_path: Path) -> None:
    with pytest.raises(StorageError, match="No such file") as caught:
        shard_of(tmp_path, "absent")
    assert caught.value.where == str(tmp_path / "absent")


def before(manifest: Manifest) -> Manifest:
    """The manifest as it was when every digest was one of BLAKE2b, without its name."""

    def old(content: bytes) -> str:
        return hashlib.blake2b(content, digest_size=32).hexdigest()

    def restated(shard: Shard) -> Shard:
        return shard.model_copy(update={"digest": old(Path(manifest.folder, shard.file).read_bytes())})

    assert manifest.tensors is not None and manifest.canary is not None
    beside = {"tensors": restated(manifest.tensors), "canary": restated(manifest.canary)}
    manifest = manifest.model_copy(update={"shards": tuple(map(restated, manifest.shards)), **beside})
    content = manifest.model_dump_json(exclude={"folder", "created", "digest"}).encode()
    return manifest.model_copy(update={"digest": old(content)})


def test_a_version_that_was_written_before_blake3_is_still_read_and_its_damage_noticed(tmp_path: Path) -> None:
    manifest = before(publish(tmp_path))
    shard = verify(manifest)[0]
    shard.write_bytes(b"worst")
    with pytest.raises(StorageError, match="another digest"):
        verify(manifest)


def test_prune_keeps_what_it_is_told_and_what_a_successor_wrote(tmp_path: Path) -> None:
    old = [version_of(1, batch) for batch in range(4)]
    successor = version_of(2, 0)
    for version in [*old, successor]:
        publish(tmp_path, version)
    foreign = tmp_path / "weights" / "notes"
    foreign.mkdir()
    prune(tmp_path, old[-2:])
    left = sorted(path.name for path in (tmp_path / "weights").iterdir())
    assert left == sorted([*map(str, old[-2:]), str(successor), "notes"])
    prune(tmp_path / "nowhere", [1])

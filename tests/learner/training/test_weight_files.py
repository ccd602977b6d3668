"""What is published is what was trained, whole, and readable by anyone who knows safetensors."""

from collections.abc import Iterator
from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file
from torch import Tensor

from isentrope.errors import StorageError
from isentrope.learner.training import weight_files
from isentrope.learner.training.weight_files import write_version
from isentrope.rollout.wire.proof import TENSORS, parse_tensors
from isentrope.rollout.wire.tensor_bits import bits_of
from isentrope.rollout.wire.types import version_of
from isentrope.rollout.wire.weights import Manifest, shard_of, verify, version_folder

VERSION = version_of(1, 3)


def weights(dtype: torch.dtype = torch.float32) -> dict[str, Tensor]:
    return {f"layer.{number}": torch.randn(number + 1, 4, dtype=dtype) for number in range(5)}


def write(root: Path, tensors: dict[str, Tensor]) -> Manifest:
    return write_version(iter(tensors.items()), version_folder(root, VERSION), version=VERSION)


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
@pytest.mark.parametrize("shard_bytes", [weight_files.SHARD_BYTES, 40])
def test_every_weight_comes_back_bit_by_bit(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, dtype: torch.dtype, shard_bytes: int
) -> None:
    monkeypatch.setattr(weight_files, "SHARD_BYTES", shard_bytes)
    tensors = weights(dtype)
    manifest = write(tmp_path, tensors)
    paths = verify(manifest)
    assert (len(paths) > 1) == (shard_bytes == 40)
    loaded = {name: value for path in paths for name, value in load_file(path).items()}
    assert list(loaded) == list(tensors)
    assert all(torch.equal(loaded[name], value) for name, value in tensors.items())
    assert (manifest.version, manifest.dtype) == (VERSION, str(dtype).removeprefix("torch."))
    table = parse_tensors((version_folder(tmp_path, VERSION) / TENSORS).read_bytes())
    named = str(dtype).removeprefix("torch.")
    assert table == {name: (named, tuple(value.shape), bits_of(value)) for name, value in loaded.items()}


@pytest.mark.parametrize("dtype", weight_files._DTYPES, ids=str)
def test_every_number_format_is_read_by_the_library(tmp_path: Path, dtype: torch.dtype) -> None:
    values = {
        "many": torch.arange(6).view(2, 3),
        "none": torch.zeros(0, 4),
        "one": torch.tensor(1),
        "t": torch.eye(3).t(),
    }
    tensors = {"first": torch.zeros(1, dtype=torch.bool)} | {name: value.to(dtype) for name, value in values.items()}
    loaded = load_file(verify(write(tmp_path, tensors))[0])
    assert loaded.keys() == tensors.keys()
    for name, value in tensors.items():
        assert loaded[name].dtype == value.dtype and loaded[name].shape == value.shape
        assert bits_of(loaded[name]) == bits_of(value)


def test_the_digest_made_while_writing_is_that_of_the_file(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(weight_files, "CHUNK_BYTES", 5)
    (shard,) = write(tmp_path, weights()).shards
    assert shard == shard_of(version_folder(tmp_path, VERSION), shard.file)


def test_weights_that_change_after_they_were_given_are_not_torn(tmp_path: Path) -> None:
    """Under ZeRO-3 a parameter's memory is reused as soon as the next one is asked for."""
    buffer = torch.zeros(4)

    def gathered() -> Iterator[tuple[str, Tensor]]:
        for number in range(3):
            buffer.fill_(number)
            yield f"p{number}", buffer

    manifest = write_version(gathered(), tmp_path / "w", version=VERSION)
    loaded = load_file(verify(manifest)[0])
    assert [float(loaded[f"p{number}"][0]) for number in range(3)] == [0.0, 1.0, 2.0]


def test_a_refusing_disk_leaves_no_version_and_still_gathers_everything(tmp_path: Path) -> None:
    (tmp_path / "weights").write_text("a file where the folder should be")
    left = iter(weights().items())
    with pytest.raises(StorageError, match="weights cannot be written"):
        write_version(left, version_folder(tmp_path, VERSION), version=VERSION)
    assert next(left, None) is None


def test_no_unfinished_file_stays(tmp_path: Path) -> None:
    write(tmp_path, weights())
    names = sorted(path.name for path in version_folder(tmp_path, VERSION).iterdir())
    assert names == ["manifest.json", "tensors.json", "weights-00000.safetensors"]

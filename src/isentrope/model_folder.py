"""A published version of a run as a model folder, which transformers and vLLM open and another run can start from.

The folder has the files of the model that the run began with, the chat template that it was trained with, and the
version's weights under their usual names. It gets its name when it is complete.
"""

import contextlib
import json
import os
import shutil
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

from isentrope.config import load_with_errors
from isentrope.errors import ConfigError, RunFolderError, StorageError
from isentrope.resolved import RUN_FILE
from isentrope.rollout.config import ModelConfig
from isentrope.rollout.data.model_place import require_here
from isentrope.rollout.wire.files import UNFINISHED
from isentrope.rollout.wire.types import batch_of, incarnation_of
from isentrope.rollout.wire.weights import MANIFEST, Manifest, read_manifest, verify, version_folder
from isentrope.runfile import raise_all
from isentrope.runfolder import read_record

FINAL = "final"
"""Folder of the newest version in a run's folder, once the run has ended."""

CONFIG = "config.json"
TEMPLATE = "chat_template.jinja"
WEIGHTS = "model.safetensors"
INDEX = "model.safetensors.index.json"

_KEPT = ("*.json", "*.jinja", "*.txt", "*.model", "*.tiktoken", "*.bpe", "*.vocab")
"""Files that are taken over from the model that the run began with: its configuration and tokenizer."""

_LEFT = "*.index.json"
"""Files among them that describe its weights."""

_DTYPES = ("dtype", "torch_dtype")
"""Keys of a configuration with the number format of the weights: today's and the former."""


@dataclass(frozen=True, slots=True)
class Origin:
    """The model that a run began with. path: its absolute folder, or Hugging Face id."""

    path: str
    config: ModelConfig


@dataclass(frozen=True, slots=True)
class Wanted:
    """Request of a version as a model folder. version: as `choose` takes it. model: as `origin` takes it."""

    run: Path
    target: Path
    version: str = ""
    model: str = ""


def versions(run: Path) -> list[Manifest]:
    """Return the versions of a run that are complete on the disk, the oldest first; `folder` is where each lies now."""
    found = []
    for path in version_folder(run, 0).parent.glob(f"*/{MANIFEST}"):
        with contextlib.suppress(OSError, ValueError, StorageError):  # it was deleted meanwhile, or cannot be used
            found.append(read_manifest(path.parent))
    return sorted(found, key=lambda manifest: manifest.version)


def configuration_files(model: Path) -> dict[str, Path]:
    """Return the files of a model's configuration and tokenizer, by their names."""
    found = (path for pattern in _KEPT for path in model.glob(pattern))
    return {path.name: path for path in found if path.is_file() and not path.match(_LEFT)}


def choose(found: Sequence[Manifest], wanted: str, run: Path) -> Manifest:
    """Return the version that `wanted` names: a batch, a version as `status` shows it, or its whole number; the newest
    if it is empty.

    Raises:
        ConfigError: there is no such version.
        StorageError: there are versions, and none of them can be read.
    """
    fitting = [manifest for manifest in found if not wanted or wanted in _names(manifest)]
    if fitting:
        return fitting[-1]
    if not found:
        if unusable := [path.parent.name for path in version_folder(run, 0).parent.glob(f"*/{MANIFEST}")]:
            raise StorageError(
                f"no version of the weights in {run} can be read: {', '.join(sorted(unusable))}",
                fix="use the version of this program that wrote them, or restore the files",
            )
        raise ConfigError(
            f"no version of the weights is left in {run}", fix="give the folder of a run that has trained"
        )
    there = ", ".join(_label(manifest.version) for manifest in found)
    raise ConfigError(
        f"there is no version {wanted!r} in {run}",
        fix=f"versions that are left, as learner.batch: {there}; a batch alone names its newest",
    )


def origin(run: Path, model: str = "") -> Origin:
    """Return the model that a run began with, as its folder says.

    Args:
        run: the run's folder.
        model: folder or Hugging Face id where that model is now; empty: where it was.

    Raises:
        RunFolderError: it is not a run folder, or does not say.
    """
    record = read_record(run)
    moved = str(Path(model).resolve()) if model and Path(model).is_dir() else model
    if not (run / RUN_FILE).is_file():
        if model:
            return Origin(moved, ModelConfig(path=model))
        raise RunFolderError(
            f"{run} does not say which model its run began with: it has no {RUN_FILE}",
            where=f"schema {record.schema_version} of run folders",
            fix="give the model's folder by --model",
        )
    config, file, errors, wrong = load_with_errors(run / RUN_FILE)
    if any(key.startswith("model") for key in wrong):
        raise_all(errors)  # other keys may be those of another version of this program
    if model:
        return Origin(moved, config.model)
    folder = file.folder / Path(config.model.path).expanduser()
    return Origin(str(folder.resolve()) if folder.is_dir() else config.model.path, config.model)


def export(manifest: Manifest, begun: Origin, target: Path, *, replace: bool = False) -> None:
    """Write the version as the model folder `target`, which appears when it is complete.

    Shards are linked where the file system allows it, else copied; they are never written again.

    Args:
        manifest: the version, with the folder in which it lies now.
        begun: the model that its run began with.
        target: folder to make; its own may exist and be empty.
        replace: take the place of what is there.

    Raises:
        ConfigError: the target holds something, or the model's own files are not there.
        StorageError: the weights are damaged or gone, or the target cannot be written.
    """
    if not replace and target.exists() and (not target.is_dir() or any(target.iterdir())):
        raise ConfigError(f"{target} is not empty", fix="give a folder that does not exist yet")
    shards = verify(manifest)
    unfinished = target.with_name(target.name + UNFINISHED)
    try:
        shutil.rmtree(unfinished, ignore_errors=True)
        unfinished.mkdir(parents=True)
        _write_files(begun, manifest.dtype, unfinished)
        _place_weights(shards, unfinished)
        _put(unfinished, target)
    except OSError as error:
        raise StorageError(f"the model cannot be written: {error.strerror or error}", where=str(target)) from error
    finally:
        shutil.rmtree(unfinished, ignore_errors=True)


def _label(version: int) -> str:
    return f"{incarnation_of(version)}.{batch_of(version)}"


def _names(manifest: Manifest) -> set[str]:
    return {str(manifest.batch), _label(manifest.version), str(manifest.version)}


def _write_files(begun: Origin, dtype: str, folder: Path) -> None:
    source = _own_files(begun.path)
    kept = configuration_files(source)
    if CONFIG not in kept:
        raise ConfigError(f"{source} is not a model: it has no {CONFIG}", fix="give the model's folder by --model")
    for name, path in kept.items():
        shutil.copyfile(path, folder / name)
    facts = json.loads((folder / CONFIG).read_text(encoding="utf-8"))
    (folder / CONFIG).write_text(json.dumps(_with_dtype(facts, dtype), indent=2) + "\n", encoding="utf-8")
    if begun.config.chat_template or begun.config.chat_template_args:
        from isentrope.rollout.data.tokenizer import load_tokenizer

        template = load_tokenizer(begun.path, chat=begun.config).chat_template
        (folder / TEMPLATE).write_text(str(template), encoding="utf-8")


def _own_files(model: str) -> Path:
    """Return the folder with the files of a model; those of a Hugging Face id were downloaded when the run began."""
    require_here(model, "the run's model")
    if Path(model).is_absolute():
        return Path(model)
    from huggingface_hub import snapshot_download

    try:
        return Path(snapshot_download(model, allow_patterns=list(_KEPT)))
    except Exception as error:  # of the network: each of its libraries has its own
        raise ConfigError(
            f"the configuration and tokenizer of {model!r} are not here: {type(error).__name__}",
            fix="give the model's folder by --model",
        ) from error


def _with_dtype(facts: Mapping[str, object], dtype: str) -> dict[str, object]:
    """Return a model's configuration for weights of another number format: readers would convert them to the old."""
    present = [key for key in _DTYPES if key in facts] or _DTYPES[:1]
    changed = {**facts, **dict.fromkeys(present, dtype)}
    inner = changed.get("text_config")
    if isinstance(inner, dict) and any(key in inner for key in _DTYPES):
        changed["text_config"] = _with_dtype(inner, dtype)
    return changed


def _place_weights(shards: Sequence[Path], folder: Path) -> None:
    """Put the shards under the names that libraries look for, with an index if there are several."""
    if len(shards) == 1:
        return _link(shards[0], folder / WEIGHTS)
    places: dict[str, str] = {}
    total = 0
    for number, shard in enumerate(shards, 1):
        name = f"model-{number:05d}-of-{len(shards):05d}.safetensors"
        _link(shard, folder / name)
        for tensor, size_bytes in _tensors(shard):
            places[tensor] = name
            total += size_bytes
    index = {"metadata": {"total_size": total}, "weight_map": dict(sorted(places.items()))}
    (folder / INDEX).write_text(json.dumps(index, indent=2) + "\n", encoding="utf-8")


def _link(shard: Path, place: Path) -> None:
    try:
        os.link(shard, place)
    except OSError:  # another file system, or one without links
        shutil.copyfile(shard, place)


def _tensors(shard: Path) -> Iterator[tuple[str, int]]:
    """Yield name and size in bytes of the tensors in a safetensors file, from its header."""
    with shard.open("rb") as file:
        header = json.loads(file.read(int.from_bytes(file.read(8), "little")))
    for name, facts in header.items():
        if name != "__metadata__":
            begin, end = facts["data_offsets"]
            yield name, end - begin


def _put(unfinished: Path, target: Path) -> None:
    """Let the finished folder take its name; delete what had it before."""
    former = target.with_name(f"{target.name}.old{UNFINISHED}")
    shutil.rmtree(former, ignore_errors=True)
    with contextlib.suppress(FileNotFoundError):
        target.rename(former)
    unfinished.rename(target)
    shutil.rmtree(former, ignore_errors=True)

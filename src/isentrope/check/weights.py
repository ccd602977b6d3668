"""The files of a model's weights: complete, and readable by their own headers."""

import json
from pathlib import Path

from isentrope.check.source import Source
from isentrope.errors import ConfigError

_WEIGHTS = ("model.safetensors", "model.safetensors.index.json", "pytorch_model.bin", "pytorch_model.bin.index.json")
"""Files of which transformers loads the first that is there."""


def check_weights(source: Source, where: str) -> None:
    """Raise ConfigError if the weights are missing, or a file of them is incomplete by its own header."""
    name = next((each for each in _WEIGHTS if each in source.files), None)
    if name is None:
        raise ConfigError(
            f"{source.loadable} has no weights: neither {_WEIGHTS[0]} nor {_WEIGHTS[1]}",
            where=where,
            fix="save the model with save_pretrained, or download all of its files",
        )
    if source.folder is None:
        return
    names = [name]
    if name.endswith(".index.json"):
        names = shards(source.folder / name, where)
        if missing := [each for each in names if not (source.folder / each).is_file()]:
            more = f" and {len(missing) - 1} more" if len(missing) > 1 else ""
            raise ConfigError(
                f"{source.folder / name} lists {missing[0]}{more}, which is not there",
                where=where,
                fix="download all of the model's files",
            )
    for each in names:
        if each.endswith(".safetensors"):
            _check_safetensors(source.folder / each, where)


def shards(index: Path, where: str) -> list[str]:
    """Return the names of the files that an index of weights lists; ConfigError if it is none."""
    try:
        return sorted(set(json.loads(index.read_text(encoding="utf-8"))["weight_map"].values()))
    except (ValueError, KeyError, TypeError, AttributeError):
        raise ConfigError(f"{index} is not an index of weights", where=where, fix="download it again") from None


def _check_safetensors(path: Path, where: str) -> None:
    from safetensors import SafetensorError, safe_open

    try:
        with safe_open(path, "np"):  # compares the file's length with its header
            return
    except (SafetensorError, OSError) as error:
        with path.open("rb") as file:
            pointer = file.read(64).startswith(b"version https://git-lfs")
        raise ConfigError(
            f"{path} is a pointer of Git LFS, not the weights" if pointer else f"{path} is damaged: {error}",
            where=where,
            fix="run `git lfs pull` in its folder" if pointer else "download it again",
        ) from None

"""Data sets that the library `datasets` opens: an id of the Hugging Face Hub, or a folder."""

import hashlib
import json
import re
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from isentrope.errors import DataError
from isentrope.rollout.data.arrow_table import ArrowTable
from isentrope.rollout.data.table import Check

TIMEOUT_S = 10.0
"""Time limit of the one question to the Hub that is asked before anything is downloaded."""

_ID = re.compile(r"[\w.-]+/[\w.-]+")


@dataclass(frozen=True, slots=True)
class DataSet:
    """A data set by name: `id`, `id:configuration` or `id:configuration:split`; the split is `train` if none is named.

    folder: the one that `id` names; None: it is of the Hub.
    """

    id: str
    configuration: str | None
    split: str
    folder: Path | None


def data_set(name: str, run_folder: Path) -> DataSet | None:
    """Return the data set that `name` means; None: it has the form of a file's name."""
    first, _, rest = name.partition(":")
    configuration, _, split = rest.partition(":")
    folder = run_folder / Path(first).expanduser()
    local = folder if folder.is_dir() else None
    if local is None and (not _ID.fullmatch(first) or (run_folder / first.partition("/")[0]).is_dir()):
        return None
    return DataSet(first, configuration or None, split or "train", local)


def open_data_set(chosen: DataSet, check: Check) -> ArrowTable:
    """Return the rows of a data set.

    Raises:
        DataError: it does not exist, the Hub cannot be reached, or `datasets` is not installed.
    """
    name = f"{chosen.id}:{chosen.configuration or ''}:{chosen.split}"
    try:
        import datasets
    except ImportError as error:
        raise DataError(f"{name}: a data set by its id needs datasets", fix="pip install 'isentrope[data]'") from error
    if chosen.folder is None:
        _ask_hub(chosen.id)
    try:
        table = _load(datasets, chosen).with_format("arrow")[:]
    except Exception as error:  # of any of the library's readers
        reason = next(iter(str(error).splitlines()), type(error).__name__)
        raise DataError(
            f"data set {name} cannot be opened: {reason}",
            fix='write "<id>:<configuration>:<split>", such as "openai/gsm8k:main:train"',
        ) from error
    if not len(table):
        raise DataError(f"data set {name} has no rows", fix="choose another split")
    digest = hashlib.blake2b(digest_size=16)

    def checked(row: Any, where: str) -> None:
        digest.update(json.dumps(row, sort_keys=True, default=str).encode())
        check(row, where)

    rows = ArrowTable(table, name, "", checked)
    rows.digest = digest.hexdigest()
    return rows


def _load(datasets: Any, chosen: DataSet) -> Any:
    folder = chosen.folder
    if folder is not None and (folder / "state.json").exists():
        return datasets.load_from_disk(str(folder))
    if folder is not None and (folder / "dataset_dict.json").exists():
        return datasets.load_from_disk(str(folder))[chosen.split]
    return datasets.load_dataset(str(folder or chosen.id), chosen.configuration, split=chosen.split)


def _ask_hub(name: str) -> None:
    """Raise DataError if the Hub does not know the data set, or cannot be reached: `datasets` would try for long."""
    from huggingface_hub import HfApi
    from huggingface_hub.errors import GatedRepoError, OfflineModeIsEnabled, RepositoryNotFoundError

    try:
        HfApi().dataset_info(name, timeout=TIMEOUT_S)
    except OfflineModeIsEnabled:
        return  # an earlier download is looked for
    except GatedRepoError:
        what = f"data set {name!r} is open to those only who accepted its terms"
        fix = "accept them on its page of the Hub, and set HF_TOKEN"
    except RepositoryNotFoundError:
        what = f"there is neither a file nor a data set {name!r}"
        fix = "check the name; a private data set needs HF_TOKEN"
    except Exception as error:  # of the network: each of its libraries has its own
        what = f"there is no file {name}, and the Hugging Face Hub cannot be reached ({type(error).__name__})"
        fix = "set HF_HUB_OFFLINE=1 to take an earlier download of a data set, or give a file"
    else:
        return
    raise DataError(what, fix=fix)

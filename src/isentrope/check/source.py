"""Place that a model is loaded from: a folder, the Hugging Face Hub, or what an earlier download left of it."""

from dataclasses import dataclass
from pathlib import Path

from isentrope.errors import ConfigError, nearest
from isentrope.runfile import RunFile

KEY = "model.path"

HUB_TIMEOUT_S = 10.0
"""Time limit of the one question to the Hugging Face Hub."""


@dataclass(frozen=True, slots=True)
class Source:
    """Place that a model is loaded from.

    name: as in `Model.path`. folder: the folder with its files; None: they are on the Hub. files: names of the files.
    """

    name: str
    folder: Path | None
    files: frozenset[str]

    @property
    def loadable(self) -> str:
        """Name to give to a library that loads from the source."""
        return self.name if self.folder is None else str(self.folder)


def find(path: str, file: RunFile, key: str = KEY) -> Source:
    """Return the source of the model that `key` names; ConfigError if there is none. The Hub is asked once, and only
    for an id."""
    folder = file.folder / Path(path).expanduser()
    if folder.is_dir():
        return _in_folder(str(folder.resolve()), folder)
    if folder.exists():
        raise ConfigError(f"{folder} is a file, not a model folder", where=file.where(key), fix="give its folder")
    if _is_path(path, file.folder):
        close = nearest(folder.name, [each.name for each in _folders(folder.parent)])
        raise ConfigError(
            f"there is no model folder {folder}",
            where=file.where(key),
            fix=f"did you mean {close}?" if close else "give a folder, relative to the run file, or a Hugging Face id",
        )
    return _on_hub(path, file.where(key))


def _in_folder(name: str, folder: Path) -> Source:
    return Source(name, folder, frozenset(each.name for each in folder.iterdir() if each.is_file()))


def _folders(parent: Path) -> list[Path]:
    return [each for each in parent.iterdir() if each.is_dir()] if parent.is_dir() else []


def _is_path(path: str, folder: Path) -> bool:
    """Return True if `path` must be a folder: by its form, or because its first part is a folder here."""
    first, slash, _ = path.partition("/")
    return path.startswith((".", "/", "~")) or path.count("/") > 1 or bool(slash and (folder / first).is_dir())


def _on_hub(name: str, where: str) -> Source:
    """Return the model of the Hub's answer; without one, what an earlier download left."""
    from huggingface_hub import HfApi, try_to_load_from_cache
    from huggingface_hub.errors import GatedRepoError, HFValidationError, RepositoryNotFoundError

    try:
        siblings = HfApi().model_info(name, timeout=HUB_TIMEOUT_S).siblings or []
        return Source(name, None, frozenset(each.rfilename for each in siblings))
    except GatedRepoError:
        what = f"model {name!r} is open to those only who accepted its terms"
        fix = "accept them on its page of the Hub, and set HF_TOKEN"
    except (RepositoryNotFoundError, HFValidationError):
        what = f"no model {name!r}: not a folder here, and not on the Hugging Face Hub"
        fix = "check the name; a private model needs HF_TOKEN"
    except Exception as error:  # of the network: each of its libraries has its own
        cached = try_to_load_from_cache(name, "config.json")
        if isinstance(cached, str):
            return _in_folder(name, Path(cached).parent)
        what = (
            f"no model {name!r}: not a folder here, not among earlier downloads, and the Hugging Face Hub cannot be "
            f"reached ({type(error).__name__})"
        )
        fix = "download it where there is a network, or give the path of a folder"
    raise ConfigError(what, where=where, fix=fix)

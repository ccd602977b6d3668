"""The bundle of a checked run: the files that actors and ranks on other machines need, and how its spec names them."""

from collections.abc import Iterator
from pathlib import Path

from isentrope.check.findings import Checked
from isentrope.learner.objective.presets import load_objective, own_functions
from isentrope.model_folder import configuration_files
from isentrope.rollout.config import TASK, DataConfig
from isentrope.rollout.data.scores import scores_path
from isentrope.rollout.depot.bundle import FOLDER, may_hold_secrets, pack
from isentrope.rollout.wire.spec import Bundle

RUN, DATA, MODEL = "run", "data", "model"
"""Folders of a bundle."""


def make_bundle(checked: Checked, output_dir: Path) -> Bundle:
    """Pack the run's bundle into its folder; errors as `pack`."""
    config, folder = checked.config, checked.file.folder
    files = {f"{RUN}/{path.relative_to(folder)}": path for path in _code(checked, output_dir)}
    places: dict[str, str] = {}
    for key, name in _named(config.data):
        for inside, path in _data(key, name, folder):
            files[inside] = path
            if inside.startswith(DATA):
                places[key] = inside
        files |= _scores(key, name, folder)
    model = Path(checked.model.path)
    if model.is_absolute():
        files |= {f"{MODEL}/{name}": path for name, path in configuration_files(model).items()}
    tar, digest = pack(files, output_dir / FOLDER)
    return Bundle(
        digest=digest,
        size_bytes=tar.stat().st_size,
        run_folder=RUN,
        model_dir=MODEL if model.is_absolute() else "",
        data=places,
    )


def _code(checked: Checked, output_dir: Path) -> Iterator[Path]:
    """Yield the run file, own methods, the modules of rewards and own stages, and what `data.bundle` names beside
    them."""
    folder = checked.file.folder
    if checked.file.path.is_file() and checked.file.path.parent == folder:
        yield checked.file.path
    merged = load_objective(checked.config.learner.method, checked.config.learner.objective, folder)
    yield from (folder / name for name in merged.methods if name.endswith(".toml") and not leads_out(name))
    for name in (*checked.config.rewards, *own_functions(merged)):
        module = name.partition(":")[0].partition(".")[0]
        yield from (path for path in [folder / f"{module}.py"] if path.is_file())
        yield from sorted((folder / module).rglob("*.py"))
    for pattern in checked.config.data.bundle:
        for path in sorted(folder.glob(pattern)):
            inside = path.relative_to(folder)
            if path.is_file() and not may_hold_secrets(inside) and not path.is_relative_to(output_dir):
                yield path


def leads_out(name: str) -> bool:
    """Return True if a path is not one below the run file's folder: such a file is not packed."""
    return Path(name).is_absolute() or ".." in Path(name).parts


def _named(data: DataConfig) -> Iterator[tuple[str, str]]:
    """Yield key and name of every data file; the key of one among several is `train.<name>`."""
    for key, named in (("train", data.train), ("eval", data.eval)):
        if isinstance(named, str):
            yield key, named
        else:
            files = ((source, each if isinstance(each, str) else each.file) for source, each in named.items())
            yield from ((f"{key}.{source}", file) for source, file in files)


def _scores(key: str, name: str, folder: Path) -> dict[str, Path]:
    """Return the scores of a data file with their name in the bundle, beside that file; none if there are none."""
    path = scores_path(name, folder)
    if not path.is_file() or not path.resolve().is_relative_to(folder.resolve()):
        return {f"{DATA}/{key}/{path.name}": path} if path.is_file() else {}
    return {f"{RUN}/{path.relative_to(folder)}": path}


def _data(key: str, name: str, folder: Path) -> Iterator[tuple[str, Path]]:
    """Yield the files of a data file or folder, with their names in the bundle; none of a task or of the Hub's.

    A folder outside the run file's is not packed: every machine must have it.
    """
    if not name or name.startswith(TASK):
        return
    path = folder / Path(name).expanduser()
    whole = path if path.exists() else folder / Path(name.partition(":")[0]).expanduser()
    beside = not Path(name).expanduser().is_absolute() and whole.resolve().is_relative_to(folder.resolve())
    if whole.is_file():
        yield (f"{RUN}/{name}" if beside else f"{DATA}/{key}/{whole.name}"), whole
    elif whole.is_dir() and beside:
        yield from ((f"{RUN}/{each.relative_to(folder)}", each) for each in whole.rglob("*") if each.is_file())

"""The user's own functions, by `module:function`.

A module is looked for in the run file's folder first, then among what is installed. The folder is also put at the end
of `sys.path`, so that the module can import what lies beside it while nothing there can hide an installed module from
others.
"""

import importlib
import sys
import traceback
from collections.abc import Callable
from importlib.machinery import PathFinder
from importlib.util import module_from_spec
from pathlib import Path
from types import ModuleType

from isentrope.errors import ConfigError, RewardError, nearest


def load_function(name: str, folder: Path) -> Callable[..., object]:
    """Return the function `module:function`.

    Raises:
        ConfigError: `name` is not of this form.
        RewardError: there is no such module or function, or importing it fails.
    """
    module_name, _, function_name = name.partition(":")
    if not function_name.isidentifier() or not all(part.isidentifier() for part in module_name.split(".")):
        raise ConfigError(
            f"{name!r} is not of the form my_module:my_function", fix="name a function of a file beside the run file"
        )
    module = _import(module_name, folder)
    function: object = vars(module).get(function_name)
    if not callable(function):
        functions = [key for key, value in vars(module).items() if callable(value) and not key.startswith("_")]
        close = nearest(function_name, functions)
        raise RewardError(
            f"module {module_name!r} has no function {function_name!r}",
            where=str(module.__file__),
            fix=f"write {module_name}:{close}" if close else "",
        )
    return function


def _import(name: str, folder: Path) -> ModuleType:
    if str(folder) not in sys.path:
        sys.path.append(str(folder))
    importlib.invalidate_caches()
    try:
        _import_beside(name.partition(".")[0], folder)
        return importlib.import_module(name)
    except RewardError:
        raise
    except BaseException as error:  # importing runs the user's code
        missing = isinstance(error, ModuleNotFoundError) and error.name is not None and name.startswith(error.name)
        raise RewardError(
            f"cannot import {name!r}: {type(error).__name__}: {error}",
            where=last_line(error) if not missing else f"looked in {folder} and among the installed packages",
            fix=f"put {name.partition('.')[0]}.py beside the run file, or install the package" if missing else "",
        ) from error


def _import_beside(name: str, folder: Path) -> None:
    """Import top-level module `name` from `folder`, if it is there."""
    spec = PathFinder.find_spec(name, [str(folder)])
    if spec is None or spec.origin is None or spec.loader is None:
        return
    loaded = sys.modules.get(name)
    if loaded is None:
        module = module_from_spec(spec)
        sys.modules[name] = module
        try:
            spec.loader.exec_module(module)
        except BaseException:
            del sys.modules[name]
            raise
    elif loaded.__spec__ is None or loaded.__spec__.origin != spec.origin:
        raise RewardError(
            f"{Path(spec.origin).name} beside the run file has the name of another module that is already imported",
            where=spec.origin,
            fix="rename the file",
        )


def last_line(error: BaseException) -> str:
    """Return where `error` was raised: file, line and function; for a syntax error, its own place."""
    if isinstance(error, SyntaxError) and error.filename:
        return f"{error.filename}:{error.lineno}"
    frames = traceback.extract_tb(error.__traceback__)
    return f"{frames[-1].filename}:{frames[-1].lineno}, in {frames[-1].name}" if frames else ""

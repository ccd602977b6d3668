"""Imports point down: what each folder may import is the architecture, and this is where it is written."""

import ast
import sys
from collections.abc import Iterator

from source_files import Source

OWN = {
    "rollout": {"errors", "long_waits", "rollout"},
    "kernels": {"errors", "kernels"},
    "actors": {"errors", "long_waits", "rollout", "actors"},
    "learner": {"errors", "long_waits", "rollout", "kernels", "learner"},
}
"""Parts of this project that a folder may import; `isentrope` itself may import all."""

OTHERS = {
    "rollout": {"blake3", "msgpack", "numpy", "pydantic", "pydantic_core", "redis"},
    "kernels": {"torch", "triton"},
    "actors": {"numpy", "pydantic", "safetensors", "torch", "transformers", "vllm"},
    "learner": {"deepspeed", "numpy", "pydantic", "safetensors", "torch", "transformers"},
}
"""Libraries that a folder may import."""

INSIDE_A_FUNCTION = {
    "kernels": {"matplotlib"},
    "rollout": {"aiohttp", "datasets", "fsspec", "huggingface_hub", "math_verify", "pyarrow", "torch", "transformers"},
}
"""Libraries that only those need who ask for the feature."""


ROOMS = {
    "rollout/wire": {"errors", "rollout.config", "rollout.units", "rollout.wire"},
    "rollout/broker": {"errors", "long_waits", "rollout.config", "rollout.units", "rollout.wire", "rollout.broker"},
    "rollout/depot": {"errors", "long_waits", "rollout.wire", "rollout.depot"},
    "rollout/data": {"errors", "rollout.config", "rollout.data"},
    "rollout/rewards": {"errors", "rollout.config", "rollout.data", "rollout.rewards"},
    "kernels": {"errors", "kernels"},
    "learner/objective/stages": {
        "kernels.limits",
        "learner.objective.schema",
        "learner.objective.selection",
        "learner.objective.stages",
    },
    "learner/objective": {
        "errors",
        "kernels",
        "learner.config",
        "learner.objective",
        "rollout.config",
        "rollout.units",
        "rollout.rewards.loading",  # a stage of the user's own, by `module:function`
    },
    "learner/records.py": {
        *("errors", "learner.json_files", "learner.measures"),
        *("learner.beginning_record", "learner.outage_record", "learner.placement_record"),
    },
    "learner/beginning_record.py": {"learner.json_files"},
    "learner/placement_record.py": {"learner.json_files"},
    "learner/outage_record.py": {"learner.json_files"},
    "learner/measures.py": {"learner.json_files"},
    "learner/json_files.py": {"errors", "rollout.wire.files"},
    "learner/config.py": {"rollout.config", "rollout.units"},
    "rollout/config.py": {"rollout.units"},
    "rollout/units.py": set(),
    "actors": {
        *("errors", "long_waits", "actors", "rollout.config", "rollout.data", "rollout.depot", "rollout.rewards"),
        *(
            *("rollout.units", "rollout.wire"),
            *(f"rollout.broker.{name}" for name in ("actor_port", "connection", "news", "relay_list", "run_view")),
        ),
    },
    "learner/intake": {"errors", "kernels.plain", "learner.config", "learner.objective", "learner.intake", "rollout"},
}
"""Parts of this project that a room of a folder may import: stages know tensors alone; data and rewards know neither
wire nor broker; the intake does not know the training. The longest name that fits a file counts for it."""

LEAVES = {"kernels.bench"}
"""Rooms that nothing outside them imports."""


def test_each_room_imports_only_what_lies_below_it(sources: list[Source]) -> None:
    wrong = [
        f"{source.name}:{line}: {name}"
        for source in sources
        if (room := _room(source.name))
        for name, line in _own_names(source.tree)
        if not _within(name, ROOMS[room])
    ]
    assert wrong == []


def test_every_room_has_files(sources: list[Source]) -> None:
    """A renamed room would otherwise be free of its rule."""
    assert {_room(source.name) for source in sources} >= ROOMS.keys()


def test_nothing_imports_a_leaf(sources: list[Source]) -> None:
    """But for what runs it as a command."""
    wrong = [
        f"{source.name}:{line}: {name}"
        for source in sources
        if source.folder != "isentrope" and not _within(source.name.replace("/", "."), LEAVES)
        for name, line in _own_names(source.tree)
        if _within(name, LEAVES)
    ]
    assert wrong == []


def _own_names(tree: ast.Module) -> Iterator[tuple[str, int]]:
    """Yield the dotted name below `isentrope`, and the line, of everything imported from this project."""
    for node in ast.walk(tree):
        match node:
            case ast.ImportFrom(module=str(module)):
                names = [f"{module}.{alias.name}" for alias in node.names]
            case ast.Import():
                names = [alias.name for alias in node.names]
            case _:
                continue
        for name in names:
            if name.startswith("isentrope."):
                yield name.removeprefix("isentrope."), node.lineno


def _room(path: str) -> str:
    """Return the longest room that a file lies in; empty: none."""
    return max((room for room in ROOMS if f"{path}/".startswith(f"{room}/")), key=len, default="")


def _within(name: str, parts: set[str]) -> bool:
    return any(name == part or name.startswith(f"{part}.") for part in parts)


def test_each_folder_imports_only_what_lies_below_it(sources: list[Source]) -> None:
    wrong = [
        f"{source.name}:{line}: {name}"
        for source in sources
        if source.folder != "isentrope"
        for name, line, lazy in _imports(source.tree)
        if not _allowed(source.folder, name, lazy)
    ]
    assert wrong == []


def test_no_import_is_relative_or_names_a_folder_bare(sources: list[Source]) -> None:
    """Either would create a second copy of a class: `rollout.wire.types.Group` is not that of `isentrope.rollout`."""
    relative = [
        f"{source.name}:{node.lineno}"
        for source in sources
        for node in ast.walk(source.tree)
        if isinstance(node, ast.ImportFrom) and node.level
    ]
    bare = [
        f"{source.name}:{line}: {name}"
        for source in sources
        for name, line, _ in _imports(source.tree)
        if name.partition(".")[0] in OWN
    ]
    assert relative + bare == []


def _imports(tree: ast.Module) -> Iterator[tuple[str, int, bool]]:
    """Dotted name, line, whether it is inside a function or for type checkers alone, of every module imported. `from
    isentrope import x` gives `isentrope.x`."""
    lazy = {
        inner
        for node in ast.walk(tree)
        if isinstance(node, ast.FunctionDef | ast.AsyncFunctionDef)
        or (isinstance(node, ast.If) and ast.unparse(node.test) == "TYPE_CHECKING")
        for inner in ast.walk(node)
    }
    for node in ast.walk(tree):
        if isinstance(node, ast.Import):
            for alias in node.names:
                yield alias.name, node.lineno, node in lazy
        elif isinstance(node, ast.ImportFrom) and node.module:
            names = [f"isentrope.{alias.name}" for alias in node.names] if node.module == "isentrope" else [node.module]
            for name in names:
                yield name, node.lineno, node in lazy


def _allowed(folder: str, name: str, lazy: bool) -> bool:
    first, _, rest = name.partition(".")
    if first == "isentrope":
        return rest.partition(".")[0] in OWN[folder]
    allowed = sys.stdlib_module_names | OTHERS[folder] | (INSIDE_A_FUNCTION.get(folder, set()) if lazy else set())
    return first in allowed

"""Habits that a reader of any file may rely on."""

import ast
import re
from collections.abc import Iterator
from pathlib import Path

import pytest
from source_files import Source

UNSAFE = {"cloudpickle", "dill", "joblib", "marshal", "pickle", "shelve"}
"""Modules whose `load` runs code of the sender's."""

UNPICKLES = {"actors/reward_worker.py": "what its own actor sends it", "actors/reward_process.py": "never: it sends"}
"""The only files that import one of them, with what they read."""

PRINTING = {"src/isentrope/cli.py", "kernels/bench/__main__.py"}
"""The only files that write to the terminal directly."""

ENVIRONMENT = {"os.environ", "os.environb", "os.getenv"}

READS_THE_ENVIRONMENT = {
    "actors/reward_box.py": "gives reward functions the part that they may see",
    "examples/judge/rewards.py": "the user's key of the judge, which no file should hold",
    "src/isentrope/environment.py": "the one module",
    "learner/training/fault_points.py": "where tests have a process killed; unset in every run",
    "learner/training/rank_change.py": "has torch load weights only, which a variable alone can ask of a library",
}

COMMON_WORDS = {"advanced", "decoupled", "entropic", "pass_at_k", "positive_weight", "sent", "starter", "steer"}
"""Method names that are also plain words of this code."""

KINDS = {"cispo", "ppo", "sapo", "top_entropy"}
"""Names that a kind shares with the method that is this one kind and nothing else."""

NAMES_A_METHOD = {
    "learner/config.py": "the default",
}

BENCHMARKS = "kernels/bench/"
"""Here names belong to others: what is compared is called as its authors call it."""


def test_nothing_prints_but_the_command_line(sources: list[Source]) -> None:
    calls = [
        f"{source.name}:{node.lineno}"
        for source in sources
        if source.name not in PRINTING
        for node in ast.walk(source.tree)
        if isinstance(node, ast.Call) and _dotted(node.func) in {"print", "sys.stdout.write", "sys.stderr.write"}
    ]
    assert calls == []


def test_nothing_unpickles(sources: list[Source]) -> None:
    """What comes from another process is data: neither pickle nor a loader built on it reads it."""
    found = []
    for source in sources:
        if source.name in UNPICKLES:
            continue
        for node in ast.walk(source.tree):
            if isinstance(node, ast.Import):
                wrong = any(alias.name.partition(".")[0] in UNSAFE for alias in node.names)
            elif isinstance(node, ast.ImportFrom):
                wrong = (node.module or "").partition(".")[0] in UNSAFE
            elif isinstance(node, ast.Call):
                wrong = not _safe(node)
            else:
                continue
            if wrong:
                found.append(f"{source.name}:{node.lineno}")
    assert found == []


def test_the_environment_is_read_in_one_module(sources: list[Source]) -> None:
    reads = []
    for source in sources:
        if source.name in READS_THE_ENVIRONMENT:
            continue
        set_only = {
            id(node.value)
            for node in ast.walk(source.tree)
            if isinstance(node, ast.Subscript) and isinstance(node.ctx, ast.Store)
        }
        reads += [
            f"{source.name}:{node.lineno}"
            for node in ast.walk(source.tree)
            if isinstance(node, ast.Attribute) and id(node) not in set_only and _dotted(node) in ENVIRONMENT
        ]
    assert reads == []


def test_every_variable_of_the_users_is_documented(root: Path) -> None:
    from isentrope.environment import READ_FROM_USER

    readme = (root / "README.md").read_text(encoding="utf-8")
    assert [name for name in READ_FROM_USER if name not in readme] == []


def test_no_method_is_named_in_code(sources: list[Source], root: Path) -> None:
    """A method is a file of `learner/methods`; a branch on its name would make it more than data."""
    names = {path.stem for path in (root / "learner" / "methods").glob("*.toml")} - COMMON_WORDS - KINDS
    assert names, "learner/methods holds no preset"
    pattern = re.compile(rf"(?<![a-z0-9])({'|'.join(sorted(names, key=len, reverse=True))})(?![a-z0-9])", re.IGNORECASE)
    found = [
        f"{source.name}:{line}: {match[0]}"
        for source in sources
        if source.name not in NAMES_A_METHOD and not source.name.startswith(BENCHMARKS)
        for text, line in _words(source.tree)
        if (match := pattern.search(text))
    ]
    assert found == []


@pytest.mark.parametrize("kind", ["module", "function"])
def test_everything_public_says_what_it_is(sources: list[Source], kind: str) -> None:
    """Modules, and public functions and classes at module level, have a docstring."""
    bare = []
    for source in sources:
        nodes: list[ast.Module | ast.FunctionDef | ast.AsyncFunctionDef | ast.ClassDef] = [source.tree]
        if kind == "function":
            public = (ast.FunctionDef, ast.AsyncFunctionDef, ast.ClassDef)
            nodes = [node for node in source.tree.body if isinstance(node, public) and not node.name.startswith("_")]
        bare += [f"{source.name}: {getattr(node, 'name', '')}" for node in nodes if not ast.get_docstring(node)]
    assert bare == []


def _safe(call: ast.Call) -> bool:
    """Whether a call reads data as data: `torch.load` and `np.load` can be told to."""
    told = {key.arg: key.value.value for key in call.keywords if isinstance(key.value, ast.Constant)}
    if _dotted(call.func) == "torch.load":
        return told.get("weights_only") is True
    return told.get("allow_pickle", False) is False


def _dotted(node: ast.expr) -> str:
    parts: list[str] = []
    while isinstance(node, ast.Attribute):
        parts.append(node.attr)
        node = node.value
    return ".".join([node.id, *reversed(parts)]) if isinstance(node, ast.Name) else ""


def _words(tree: ast.Module) -> Iterator[tuple[str, int]]:
    """Identifiers and strings with their lines; no docstrings and no comments."""
    prose = {
        id(node.value) for node in ast.walk(tree) if isinstance(node, ast.Expr) and isinstance(node.value, ast.Constant)
    }
    for node in ast.walk(tree):
        if isinstance(node, ast.Name):
            yield node.id, node.lineno
        elif isinstance(node, ast.Attribute):
            yield node.attr, node.lineno
        elif isinstance(node, ast.FunctionDef | ast.AsyncFunctionDef | ast.ClassDef):
            yield node.name, node.lineno
        elif isinstance(node, ast.arg | ast.keyword) and node.arg:
            yield node.arg, node.lineno
        elif isinstance(node, ast.Constant) and isinstance(node.value, str) and id(node) not in prose:
            yield node.value, node.lineno

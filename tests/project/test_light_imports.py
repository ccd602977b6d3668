"""`isentrope --help`, and every process that only carries data, start without the heavy libraries."""

import json
import subprocess
import sys
from pathlib import Path

import pytest
from source_files import Source

HEAVY = {"datasets", "deepspeed", "matplotlib", "pandas", "pyarrow", "ray", "torch", "transformers", "triton", "vllm"}

PROGRAM = """
import importlib, json, sys
for name in sys.argv[1:]:
    importlib.import_module(name)
print(json.dumps(sorted(name for name in sys.modules if "." not in name)))
"""


@pytest.mark.parametrize(
    "name",
    [
        "isentrope.cli",
        "isentrope.commands",
        "isentrope.learner.records",
        "isentrope.config",
        "isentrope.demo.recipe",
        "isentrope.report",
        "isentrope.learner.training.job",
    ],
)
def test_entry_points_load_nothing_heavy(name: str) -> None:
    assert _loaded(name) & HEAVY == set()


def test_rollout_loads_nothing_heavy(sources: list[Source]) -> None:
    assert _loaded(*_modules(sources, "rollout")) & HEAVY == set()


def test_kernels_load_none_of_the_other_folders_libraries(sources: list[Source]) -> None:
    """They run where only torch, triton and numpy are installed."""
    assert (
        _loaded(*_modules(sources, "kernels")) & {"deepspeed", "msgpack", "pydantic", "ray", "redis", "vllm"} == set()
    )


def _loaded(*modules: str) -> set[str]:
    """Top-level modules in a fresh interpreter that has imported these."""
    done = subprocess.run([sys.executable, "-c", PROGRAM, *modules], stdout=subprocess.PIPE, text=True, check=True)
    return set(json.loads(done.stdout))


def _modules(sources: list[Source], folder: str) -> list[str]:
    paths = [
        Path(source.name).with_suffix("")
        for source in sources
        if source.folder == folder and "__main__" not in source.name
    ]
    return [".".join(("isentrope", *path.parts)).removesuffix(".__init__") for path in paths]

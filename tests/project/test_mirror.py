"""Where the tests of a module are: at its own place under `tests`, or where the table below says."""

from fnmatch import fnmatchcase
from pathlib import Path

from source_files import Source

RUN_BY = {
    "actors/groups.py": "actors/test_worker.py",
    "actors/weight_receiver.py": "actors/test_engine.py",
    "kernels/bench/*": "kernels/test_bench.py",
    "kernels/c*.py": "kernels/test_errors.py",
    "kernels/*.py": "kernels/test_fused.py",
    "learner/intake/ragged.py": "learner/intake/test_packing.py",
    "learner/intake/plan_record.py": "learner/intake/test_ledger.py",
    "learner/measures.py": "learner/test_records.py",
    "learner/json_files.py": "learner/test_records.py",
    "learner/objective/*.py": "learner/objective/test_objective.py",
    "learner/training/*.py": "learner/training/test_main.py",
    "rollout/broker/evaluations.py": "rollout/broker/test_learner_port.py",
    "rollout/broker/fenced.py": "rollout/broker/test_learner_port.py",
    "rollout/wire/spec.py": "rollout/broker/test_run_view.py",
    "src/isentrope/check.py": "isentrope/test_cli.py",
    "src/isentrope/commands.py": "isentrope/test_cli.py",
    "src/isentrope/launch/*": "system/test_own_run.py",
    "src/isentrope/handbook/*": "isentrope/test_handbook.py",
    "src/isentrope/report/*": "isentrope/report/test_report.py",
    "*/config.py": "isentrope/test_config.py",
}
"""Modules that have no test of their name -> a test that runs them, both by pattern; the first that fits counts."""


def test_every_module_has_a_test(sources: list[Source], root: Path) -> None:
    homeless = [
        source.name
        for source in sources
        if source.path.name not in ("__init__.py", "__main__.py")
        if not any((root / "tests" / place).is_file() for place in (_mirrored(source), _run_by(source)))
    ]
    assert homeless == []


def test_every_pattern_is_needed(sources: list[Source], root: Path) -> None:
    bare = [source for source in sources if not (root / "tests" / _mirrored(source)).is_file()]
    used = {next((key for key in RUN_BY if fnmatchcase(source.name, key)), None) for source in bare}
    assert RUN_BY.keys() - used == set()


def _mirrored(source: Source) -> Path:
    place = Path(source.name.removeprefix("src/"))
    return place.with_name(f"test_{place.name}")


def _run_by(source: Source) -> str:
    return next((test for key, test in RUN_BY.items() if fnmatchcase(source.name, key)), "missing")

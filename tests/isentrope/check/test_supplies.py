"""What data and model lack is refused, with what is left of the method."""

from pathlib import Path

from isentrope.check.supplies import lacking
from isentrope.config import Config
from isentrope.learner.objective.run import open_objective, refusals


def found(method: str, **tables: dict[str, object]) -> list[str]:
    values: dict[str, object] = {
        "run": {"name": "r"},
        "model": {"path": "student", **tables.get("model", {})},
        "data": {"train": "x.jsonl", "reward": ["rewards:exact"], **tables.get("data", {})},
        "learner": {"method": method},
    }
    config = Config.model_validate(values)
    opened = open_objective(
        config.learner, config.sampling, run_folder=Path("/"), evaluates=True, lacks=lacking(config)
    )
    return [f"{error.where}: {error.what}; {error.fix}" for error in refusals(opened)]


def test_one_reward_function_is_too_few_to_normalize_each() -> None:
    assert found("gdpo", data={"reward": ["rewards:exact", "rewards:format"], "correct": "nothing"}) == []
    (line,) = found("gdpo")
    assert line.startswith("learner.objective.advantage.baseline (set by gdpo): needs two reward functions")
    assert "data.reward has one" in line and line.endswith("or choose a method without it")


def test_demonstrations_are_a_column_of_the_data() -> None:
    assert found("luffy", data={"demonstration": "solution"}) == []
    (line,) = found("luffy")
    assert line.startswith("learner.objective.aux.shaped_demonstration (set by luffy): needs demonstrations")
    assert "data.demonstration names no column" in line


def test_the_model_is_not_a_teacher_of_its_own() -> None:
    assert found("opd", model={"reference": "teacher"}) == []
    (line,) = found("opd")
    assert "needs a teacher" in line and "model.reference" in line


def test_graded_rewards_say_nothing_about_correctness() -> None:
    assert found("dapo") == []
    assert any('data.correct = "nothing"' in line for line in found("dapo", data={"correct": "nothing"}))

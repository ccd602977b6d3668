"""A reference policy that is another model must read the same tokens."""

import json
import shutil
from pathlib import Path

import pytest

from isentrope.check.model import Model
from isentrope.check.teacher import open_teacher
from isentrope.demo.model import write_skeleton
from isentrope.errors import ConfigError
from isentrope.rollout.config import ModelConfig
from isentrope.runfile import RunFile


@pytest.fixture
def pair(tmp_path: Path) -> tuple[Path, Path]:
    """A model without weights, and a copy of it."""
    write_skeleton(tmp_path / "student")
    shutil.copytree(tmp_path / "student", tmp_path / "teacher")
    return tmp_path / "student", tmp_path / "teacher"


def test_a_teacher_with_another_tokenizer_is_refused_with_the_first_token_that_differs(
    pair: tuple[Path, Path], monkeypatch: pytest.MonkeyPatch
) -> None:
    student, teacher = pair
    monkeypatch.setattr("isentrope.check.teacher.check_weights", lambda *_: None)  # the skeletons have none
    file = RunFile(student.parent / "run.toml", {}, {})
    config = ModelConfig(path=str(student), reference="teacher")
    assert open_teacher(config, file, Model(str(student), 46, 128)) == str(teacher)
    table = json.loads((teacher / "tokenizer.json").read_text())
    vocabulary = table["model"]["vocab"]
    one, two = sorted(vocabulary)[10:12]
    vocabulary[one], vocabulary[two] = vocabulary[two], vocabulary[one]
    (teacher / "tokenizer.json").write_text(json.dumps(table))
    with pytest.raises(ConfigError, match="2 tokens have other numbers") as caught:
        open_teacher(config, file, Model(str(student), 46, 128))
    assert "model.reference" in caught.value.where and "tokenizer" in caught.value.fix

"""The run files pass the check, with a small model and a few rows in place of those that they name."""

import json
import shutil
import sys
from pathlib import Path

import numpy as np
import pytest
from deploy_files import DEPLOY
from safetensors.numpy import save_file

from isentrope import cli

RUNS = sorted((DEPLOY / "runs").glob("*.toml"))

REWARDS = "def reaches(prompts, completions, **columns):\n    return [0.0 for _ in completions]\n"


@pytest.fixture(scope="module")
def stub(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Folder of a model that nothing loads, with room for the longest run, and of data in all the forms."""
    from isentrope.demo.model import WEIGHTS, write_skeleton

    folder = tmp_path_factory.mktemp("stub")
    write_skeleton(folder / "model")
    facts = json.loads((folder / "model" / "config.json").read_text())
    (folder / "model" / "config.json").write_text(json.dumps(facts | {"max_position_embeddings": 32768}))
    (folder / "model" / "chat_template.jinja").write_text("{% for m in messages %}{{ m.content }} {% endfor %}")
    save_file({"weight": np.zeros(4, np.float32)}, folder / "model" / WEIGHTS)
    text = {"question": "7 > 2 :", "prompt": "7 > 2 :", "answer": "3 + 4 = 7\n#### 7"}
    chat = {"prompt": [{"role": "user", "content": "7 > 2 :"}], "reward_model": {"ground_truth": "34"}}
    for name, row in (("text", text), ("chat", chat)):
        (folder / f"{name}.jsonl").write_text((json.dumps(row) + "\n") * 4)
    (folder / "rewards.py").write_text(REWARDS)
    return folder


@pytest.mark.parametrize("path", RUNS, ids=lambda path: path.stem)
def test_a_run_file_passes_the_check(
    path: Path, stub: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    shutil.copy(path, stub / "run.toml")
    rows = stub / ("chat.jsonl" if path.stem.startswith("dapo") else "text.jsonl")
    arguments = [f"model.path={stub / 'model'}", f"data.train={rows}"]
    arguments += [f"data.eval={rows}"] if "\neval = " in path.read_text() else []
    monkeypatch.setattr(sys, "argv", ["isentrope", "check", str(stub / "run.toml"), *arguments])
    with pytest.raises(SystemExit) as ended:
        cli.main()
    assert ended.value.code == 0, capsys.readouterr().err

"""What of a run goes into its bundle: what actors need, wherever it lies, and nothing else."""

import json
import tarfile
from pathlib import Path

from isentrope.check.findings import Checked
from isentrope.check.model import Model
from isentrope.config import load
from isentrope.launch.bundle import make_bundle
from isentrope.rollout.depot.bundle import bundle_name, unpack
from isentrope.rollout.wire.spec import Bundle

RUN_FILE = """
[run]
name = "mine"
[model]
path = "model"
[data]
train = "train.jsonl"
eval = "{eval}"
reward = ["rules.length:short", "helper:reaches"]
correct = "nothing"
{more}
"""

FILES = ("rules/__init__.py", "rules/length.py", "helper.py", "train.jsonl", ".env", "key.pem", "notes.txt", "a/b.json")


def checked(folder: Path, *, held_out: str = "", more: str = "", model: str = "") -> Checked:
    """A run of small files."""
    for name in FILES:
        (folder / name).parent.mkdir(parents=True, exist_ok=True)
        (folder / name).write_text(name)
    (folder / "run.toml").write_text(RUN_FILE.format(eval=held_out, more=more))
    config, file = load(folder / "run.toml")
    return Checked(config, file, "", "", Model(model or "owner/name", 10, 10), ())


def packed(run: Checked, output_dir: Path) -> tuple[Bundle, set[str]]:
    bundle = make_bundle(run, output_dir)
    with tarfile.open(output_dir / bundle_name(bundle.digest)) as tar:
        return bundle, set(tar.getnames())


def test_rewards_data_and_what_is_named_are_packed(tmp_path: Path) -> None:
    run = checked(tmp_path, more='bundle = ["*", "a/*.json"]')
    (tmp_path / "runs" / "mine").mkdir(parents=True)
    bundle, names = packed(run, tmp_path / "runs" / "mine")
    code = {"rules/__init__.py", "rules/length.py", "helper.py", "train.jsonl", "notes.txt", "a/b.json", "run.toml"}
    assert names == {f"run/{name}" for name in code}
    assert (bundle.run_folder, bundle.model_dir, bundle.data) == ("run", "", {})


def test_methods_and_stages_of_ones_own_are_packed(tmp_path: Path) -> None:
    more = """
[learner]
method = ["grpo", "methods/own.toml"]
[learner.objective]
reward = [{ kind = "scores:shaped" }]
"""
    (tmp_path / "methods").mkdir()
    (tmp_path / "methods" / "own.toml").write_text('[objective]\nclip = { kind = "mine.clips:mild" }\n')
    (tmp_path / "mine").mkdir()
    for name in ("scores.py", "mine/clips.py", "mine/other.py"):
        (tmp_path / name).write_text("")
    _, names = packed(checked(tmp_path, more="bundle = []" + more), tmp_path / "runs" / "mine")
    assert {f"run/{name}" for name in ("methods/own.toml", "scores.py", "mine/clips.py", "mine/other.py")} <= names


def test_by_default_the_modules_beside_the_run_file_are_packed(tmp_path: Path) -> None:
    _, names = packed(checked(tmp_path), tmp_path / "runs" / "mine")
    assert names == {
        f"run/{name}" for name in ("rules/__init__.py", "rules/length.py", "helper.py", "train.jsonl", "run.toml")
    }


def test_data_that_lies_elsewhere_is_found_under_its_new_name(tmp_path: Path) -> None:
    held_out = tmp_path / "data" / "eval.jsonl"
    held_out.parent.mkdir()
    held_out.write_text("rows")
    run = checked(tmp_path / "mine", held_out=str(held_out))
    bundle, _ = packed(run, tmp_path / "out")
    unpack(tmp_path / "out" / bundle_name(bundle.digest), tmp_path / "x")
    assert (tmp_path / "x" / bundle.data["eval"]).read_text() == "rows" and "train" not in bundle.data


def test_the_model_is_packed_without_its_weights(tmp_path: Path) -> None:
    model = tmp_path / "model"
    model.mkdir()
    for name in (
        "config.json",
        "tokenizer.json",
        "model.safetensors",
        "model.safetensors.index.json",
        "pytorch_model.bin",
    ):
        (model / name).write_text(json.dumps(name))
    bundle, names = packed(checked(tmp_path / "mine", model=str(model)), tmp_path / "out")
    assert {name for name in names if name.startswith("model/")} == {"model/config.json", "model/tokenizer.json"}
    assert bundle.model_dir == "model"

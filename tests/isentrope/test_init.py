"""`isentrope init`: every example is written whole, overwrites nothing, and passes the check."""

import sys
from contextlib import nullcontext
from pathlib import Path

import pytest
from judges import judge

from isentrope import cli, init
from isentrope.config import Config
from isentrope.errors import ConfigError
from isentrope.learner.objective.presets import load_objective
from isentrope.learner.objective.run import Opened, open_objective, refusals, warnings
from isentrope.runfile import read, validate

DEMONSTRATED = (
    "run.name=luffy",
    "learner.method=luffy",
    "learner.objective.tokens=none",
    "data.demonstration=demonstration",
    "learner.staleness.max_lag=0",
)
"""Overrides of a command in the README of the digit walk."""

NAMES = [example.name for example in init.examples()]


def _run(monkeypatch: pytest.MonkeyPatch, *arguments: str | Path) -> int:
    """Exit code of a command in this process."""
    monkeypatch.setattr(sys, "argv", ["isentrope", *map(str, arguments)])
    with pytest.raises(SystemExit) as ended:
        cli.main()
    assert isinstance(ended.value.code, int)
    return ended.value.code


@pytest.fixture
def bare(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """One example whose maker leaves a mark instead of a model, in a checkout where it has already run."""
    there = tmp_path / "examples" / "bare"
    there.mkdir(parents=True)
    (there / "README.md").write_text("# Bare\n\nOne line. And more.\n\n```sh\nisentrope init bare\ncd bare\nls\n```\n")
    (there / init.MAKER).write_text("from pathlib import Path\nPath(__file__).with_name('made').touch()\n")
    (there / "train.jsonl").touch()
    monkeypatch.setattr(init, "EXAMPLES", there.parent)
    return tmp_path


@pytest.mark.slow
@pytest.mark.parametrize("name", NAMES)
def test_an_example_passes_the_check(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str], name: str
) -> None:
    """As it is written, with the commands of its README."""
    assert _run(monkeypatch, "init", name, tmp_path / "new") == 0
    assert "isentrope check run.toml" in capsys.readouterr().out
    with judge(tmp_path / "new") if name == "judge" else nullcontext():
        assert _run(monkeypatch, "check", tmp_path / "new" / "run.toml") == 0, capsys.readouterr().err
    if name == "digit_walk":
        assert _run(monkeypatch, "check", tmp_path / "new" / "run.toml", *DEMONSTRATED) == 0, capsys.readouterr().err


@pytest.mark.parametrize("name", NAMES)
def test_a_readme_begins_with_a_sentence_and_the_commands(name: str) -> None:
    (example,) = [each for each in init.examples() if each.name == name]
    assert example.sentence.endswith(".") and len(example.sentence) < 120
    page = (init.EXAMPLES / name / "README.md").read_text()
    assert f"```sh\nisentrope init {name} " in page and f"\ncd {name}\n" in page
    assert {"isentrope check run.toml", "isentrope train run.toml"} <= {
        command.partition("#")[0].strip() for command in example.commands
    }


def test_only_what_belongs_to_an_example_is_copied(bare: Path) -> None:
    init.write("bare", bare / "new")
    assert {path.name for path in (bare / "new").iterdir()} == {"README.md", init.MAKER, "made"}


@pytest.mark.parametrize("there", ["file", "folder/file"])
def test_nothing_is_overwritten(bare: Path, there: str) -> None:
    (bare / "folder").mkdir()
    (bare / there).write_text("mine")
    with pytest.raises(ConfigError, match="overwrites nothing"):
        init.write("bare", bare / there.partition("/")[0])
    assert (bare / there).read_text() == "mine" and len(list((bare / "folder").iterdir())) <= 1


def test_an_unknown_name_is_answered_with_the_known_ones(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str], tmp_path: Path
) -> None:
    assert _run(monkeypatch, "init", "digitwalk", tmp_path / "new") == 64
    shown = capsys.readouterr().err
    assert all(name in shown for name in NAMES) and "fix: isentrope init digit_walk" in shown
    assert not (tmp_path / "new").exists()


def test_without_a_name_all_are_listed(monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> None:
    assert _run(monkeypatch, "init") == 0
    assert [line.split()[0] for line in capsys.readouterr().out.splitlines()] == NAMES


def _opened(name: str, *overrides: str) -> Opened:
    """The objective of an example's run file."""
    config = validate(read(init.EXAMPLES / name / "run.toml", overrides), Config)
    folder, evaluates = init.EXAMPLES / name, bool(config.data.eval)
    return open_objective(config.learner, config.sampling, run_folder=folder, evaluates=evaluates)


@pytest.mark.parametrize("name", NAMES)
def test_an_example_sets_what_its_presets_suggest_and_nothing_is_inert(name: str) -> None:
    """So that `check` has nothing to say of it, but that DAPO's rewards are 1 and -1."""
    opened = _opened(name)
    assert refusals(opened) == [] and opened.suggested == ()
    assert [line for line in warnings(opened) if "reward.scheme" not in line] == []


def test_digit_walk_without_its_selection_of_tokens_is_plain_grpo() -> None:
    """By the overrides of the command in its README."""
    page = (init.EXAMPLES / "digit_walk" / "README.md").read_text(encoding="utf-8")
    command = page.partition("To try: `isentrope train run.toml ")[2].partition("`")[0]
    opened = _opened("digit_walk", *command.split())
    assert opened.merged.plain() == load_objective("grpo", {}, init.EXAMPLES).plain()


def test_digit_walk_has_demonstrations_to_learn_from() -> None:
    """By the overrides of the command in its README; the check of the example finds them in its data."""
    page = (init.EXAMPLES / "digit_walk" / "README.md").read_text(encoding="utf-8")
    assert f"isentrope train run.toml {' '.join(DEMONSTRATED)}" in page
    opened = _opened("digit_walk", *DEMONSTRATED)
    assert refusals(opened) == [] and warnings(opened) == []
    assert opened.merged.plain() == load_objective("luffy", {}, init.EXAMPLES).plain()


def test_readmes_example_with_a_preset_that_has_no_clip_is_refused_and_told_what_selects_nothing() -> None:
    """By the names of the preset and of both keys: such a run broke its policy in ten batches."""
    opened = _opened("digit_walk", 'learner.method=["dapo", "kl_cov"]', "learner.objective.tokens=[]")
    (refusal,) = refusals(opened)
    assert "set by kl_cov" in str(refusal) and "learner.staleness.max_lag = 0" in refusal.fix
    assert any("tokens.share (set by kl_cov)" in line for line in warnings(opened))

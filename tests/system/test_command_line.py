"""Every command has a help that begins with a sentence, prints JSON or has a reason to print none, and refuses what it
is not given."""

import json
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest
import typer
from typer.core import TyperCommand as Command
from typer.core import TyperGroup as Group

from isentrope import cli
from isentrope.init import examples

OUTPUT = {
    "demo": "runs until its end; `status --json` reads it",
    "train": "runs until its end; `status --json` reads it",
    "actor": "serves until its run ends",
    "depot": "serves until a signal",
    "exporter": "serves until a signal; what it offers has Prometheus' format",
    "logs": "prints lines as processes have written them",
    "methods show": "prints TOML",
    "bench kernels": "has options of its own",
}
"""Commands without `--json`, and why."""


def _commands(group: Group | Command, name: str = "") -> Iterator[tuple[str, Group | Command]]:
    """Yield the commands with their names; those of a group alone if it runs nothing by itself."""
    if not isinstance(group, Group):
        yield name, group
        return
    if group.invoke_without_command and name:
        yield name, group
    for part, command in group.commands.items():
        assert isinstance(command, Group | Command)
        yield from _commands(command, f"{name} {part}".strip())


COMMANDS = dict(_commands(typer.main.get_group(cli.app)))


def _run(monkeypatch: pytest.MonkeyPatch, *arguments: str) -> int:
    monkeypatch.setattr(sys, "argv", ["isentrope", *arguments])
    with pytest.raises(SystemExit) as ended:
        cli.main()
    return ended.value.code if isinstance(ended.value.code, int) else 0


def test_every_command_prints_json_or_has_a_reason() -> None:
    with_json = {
        name for name, command in COMMANDS.items() if any("--json" in option.opts for option in command.params)
    }
    assert COMMANDS.keys() - with_json == OUTPUT.keys()


@pytest.mark.parametrize("command", COMMANDS.keys() - {"bench kernels"})
def test_every_command_has_a_help(
    command: str, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    assert _run(monkeypatch, *command.split(), "--help") == 0
    text = capsys.readouterr().out
    sentence = (COMMANDS[command].help or "").split("\n")[0]
    assert sentence.endswith(".") and sentence.split()[0] in text
    for option in COMMANDS[command].params:
        assert getattr(option, "help", None), option.name


@pytest.mark.parametrize("command", COMMANDS.keys() - {"bench kernels"})
def test_what_a_command_does_not_have_is_refused_with_2(
    command: str, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    assert _run(monkeypatch, *command.split(), "--nonsense") == 2
    assert "No such option" in capsys.readouterr().err


def test_examples_are_listed_for_programs(monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> None:
    assert _run(monkeypatch, "init", "--json") == 0
    told = json.loads(capsys.readouterr().out)
    assert [example["name"] for example in told] == [example.name for example in examples()]
    assert all(example["sentence"] and example["commands"] for example in told)


def test_an_example_is_written_and_told_as_json(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    assert _run(monkeypatch, "init", "chat", str(tmp_path / "mine"), "--json") == 0
    told = json.loads(capsys.readouterr().out)
    assert told["folder"] == str(tmp_path / "mine") and told["name"] == "chat"
    assert (tmp_path / "mine" / "run.toml").exists()


@pytest.mark.parametrize(
    ("arguments", "code", "says"),
    [
        ("status nowhere", 73, "there is no "),
        ("runs nowhere", 73, "there is no folder "),
        ("scale 2", 64, "'2' is not a number of actors"),
        ("depot . --bind nonsense", 64, "'nonsense' is not ADDR:PORT"),
        ("exporter --bind 9464", 64, "'9464' is not ADDR:PORT"),
        ("exporter --redis redis://127.0.0.1:1", 64, "fix: give the run's name by --run"),
        ("scale actors=2 --redis redis://127.0.0.1:1", 64, "fix: give the run's name by --run"),
        ("dlq list --redis redis://127.0.0.1:1", 64, "fix: give the run's name by --run"),
        ("mode fast", 64, "one of async, on_policy"),
        ("train run.toml", 64, "/run.toml: No such file or directory"),
        ("train .", 64, "fix: give a file in it"),
        ("init nothing", 64, "there are: chat"),
        ("logs", 73, "is not a run folder"),
        ("actor --run x --redis redis://:word@h:1", 64, "--password-file FILE"),
    ],
)
def test_the_first_mistake_of_a_command_is_told(
    arguments: str,
    code: int,
    says: str,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:
    """In an empty folder, before anything is looked for."""
    monkeypatch.chdir(tmp_path)
    monkeypatch.delenv("ISENTROPE_REDIS_URL", raising=False)
    assert _run(monkeypatch, *arguments.split()) == code
    told = capsys.readouterr().err
    assert says in told and told.startswith("error: ") and told.count("\n") <= 3

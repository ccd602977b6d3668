"""What the README tells people to type works."""

import re
import tomllib
from pathlib import Path

import pytest
import typer


@pytest.fixture(scope="module")
def readme(root: Path) -> str:
    return (root / "README.md").read_text(encoding="utf-8")


def test_every_make_target_exists(readme: str, root: Path) -> None:
    targets = set(re.findall(r"^([a-z]+):", (root / "Makefile").read_text(encoding="utf-8"), re.MULTILINE))
    asked = set(re.findall(r"\bmake ([a-z]+)\b", _code(readme)))
    assert {"demo", "test"} <= asked <= targets


def test_every_command_and_option_exists(readme: str) -> None:
    from isentrope.cli import app

    commands = typer.main.get_command(app).commands  # type: ignore[attr-defined]
    for line in re.findall(r"^(?:\$ )?isentrope ([^#\n]+)", _code(readme), re.MULTILINE):
        name, *words = line.split()
        assert name in commands, f"isentrope {name}"
        options = {option for parameter in commands[name].params for option in parameter.opts}
        assert {word.partition("=")[0] for word in words if word.startswith("--")} <= options, line


def test_the_run_file_is_valid_and_at_most_16_lines(readme: str) -> None:
    from isentrope.config import Config

    (text,) = re.findall(r"```toml\n(.*?)```", readme, re.DOTALL)
    assert len([line for line in text.splitlines() if line.strip()]) <= 16
    Config.model_validate(tomllib.loads(text))


def test_links_lead_somewhere(readme: str, root: Path) -> None:
    links = re.findall(r"\]\(([^)#]+)\)|src=\"([^\"]+)\"", readme)
    paths = [text or picture for text, picture in links]
    assert [path for path in paths if "://" not in path and not (root / path).exists()] == []


def _code(markdown: str) -> str:
    """Fenced and inline code, one piece a line."""
    fenced = re.findall(r"```(?:sh|bash|console)?\n(.*?)```", markdown, re.DOTALL)
    return "\n".join(fenced + re.findall(r"`([^`\n]+)`", re.sub(r"```.*?```", "", markdown, flags=re.DOTALL)))

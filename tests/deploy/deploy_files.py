"""The files of `deploy/`, and the programs that check them."""

import os
import re
import subprocess
from collections.abc import Iterator
from functools import cache
from pathlib import Path
from typing import Any

import pytest
import typer
import yaml
from jsonschema import Draft202012Validator
from programs import program

from isentrope import cli, config
from isentrope.errors import ConfigError
from isentrope.launch.broker import OF_A_COMMAND

DEPLOY = Path(__file__).parents[2] / "deploy"

SCHEMAS = "ISENTROPE_SCHEMAS"
"""Environment variable with the folder of published schemas, which are too large to be kept here."""

DOCKERFILE = (DEPLOY / "docker" / "Dockerfile").read_text(encoding="utf-8")
STAGES = dict(re.findall(r"^FROM \S+ AS (\w+)\n((?:(?!FROM ).*\n?)*)", DOCKERFILE, re.MULTILINE))

IMAGES = {"isentrope:cpu", "isentrope:cuda", "redis:7.4-bookworm", "prom/prometheus:v3.5.0"}
"""Images that containers may have: our two targets, and those of others, of which no test can say more."""

USERS = dict(re.findall(r"^user (\w+) (.*)$", (DEPLOY / "redis" / "users.acl").read_text(), re.MULTILINE))
PASSWORDS = {f"{user}.password" for user, rules in USERS.items() if ">PASSWORD" in rules}
"""Files of passwords that `make-acl.sh` makes."""

Tree = dict[str, Any]
"""A parsed YAML or JSON object."""


def tool(name: str) -> str:
    """Return a checker's program; skip the test where there is none."""
    return program(name, "make test installs requirements/deploy.txt")


def checked(name: str, *arguments: str | Path, cwd: Path = DEPLOY.parent) -> "subprocess.CompletedProcess[str]":
    """Return how a checker ended."""
    command = [tool(name), *map(str, arguments)]
    return subprocess.run(command, cwd=cwd, capture_output=True, text=True, timeout=60)


@cache
def schema(name: str) -> Tree:
    """Return a published schema; skip the test without the folder of them."""
    folder = os.environ.get(SCHEMAS)
    if not folder:
        pytest.skip(f"{SCHEMAS} names no folder of schemas")
    (made,) = parsed((Path(folder) / name).read_text(encoding="utf-8"))
    return made


def parsed(text: str) -> list[Tree]:
    """Return the objects of a YAML text, by the fast loader if there is one: a schema takes the other four seconds."""
    return list(yaml.load_all(text, getattr(yaml, "CSafeLoader", yaml.SafeLoader)))


def violations(given: Tree, schema: Tree) -> list[str]:
    """Return where an object violates a schema."""
    errors = Draft202012Validator(schema).iter_errors(given)
    return [f"{'.'.join(map(str, error.absolute_path))}: {error.message}" for error in errors]


def password_files(words: list[str]) -> list[Path]:
    """Return the files of passwords that a command reads, where it finds them."""
    told = {name: Path(place) for name, _, place in (word.partition("=") for word in words)}
    folder = told.get("redis.passwords")
    files = [told[name] for name in ("--password-file", "redis.password_file") if name in told]
    return files + [folder / f"{role}.password" for role in OF_A_COMMAND if folder is not None]


def access(words: list[str], url: str) -> Iterator[str]:
    """Yield what keeps a command from entering the broker at `url`: no such user, or other passwords than it needs."""
    user, named, _ = url.removeprefix("redis://").partition("@")
    needed = {f"{user}.password"} if named else {f"{role}.password" for role in OF_A_COMMAND}
    yield from (f"no user of {name}" for name in needed - PASSWORDS)
    yield from (f"not told {name}" for name in needed ^ {path.name for path in password_files(words)})


def refusals(words: list[str], run_file: Path) -> Iterator[str]:
    """Yield what the program refuses of one of its command lines; keys are those of `train`, for `run_file`."""
    name, *arguments = words[words.index("isentrope") + 1 :]
    try:
        typer.main.get_group(cli.app).commands[name].make_context(name, list(arguments))
        if name == "train":
            config.load(run_file, [each for each in arguments if re.match(r"[\w.]+=", each)])
    except (ConfigError, ExceptionGroup, KeyError, typer.TyperException) as error:
        yield str(error)

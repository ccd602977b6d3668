"""What people run where these tests cannot: each script to its end with programs that stand for what it needs."""

import os
import re
import shlex
import subprocess
from pathlib import Path

import pytest
from deploy_files import DEPLOY, refusals
from own_parsers import refused_by

CHECKS = DEPLOY / "checks"

STUBS = {
    "docker": """case "$*" in
*" wait train") echo 0 ;;
*" ps "*) echo train ;;
*" up --build "*)
  mkdir -p deploy/compose/runs/pair/runs/pair
  echo report >deploy/compose/runs/pair/runs/pair/report.html ;;
esac
""",
    "wget": """echo '{"run":"pair"}'""",
    "kubectl": """case "$*" in
*" get pods "*) echo pod/x ;;
*" exec "*)
  batch=$(cat "$NOTES/batch" 2>/dev/null || echo 0)
  echo $((batch + 1)) >"$NOTES/batch"
  echo '{"last_batch": {"batch": '"$batch"'}}' ;;
esac
""",
    "sleep": "",
}
"""What each program does after it has noted its arguments."""


@pytest.fixture
def checkout(tmp_path: Path) -> Path:
    """A copy of the files, with programs that note what they are asked."""
    subprocess.run(["cp", "-r", DEPLOY, tmp_path / "deploy"], check=True)
    programs = tmp_path / "programs"
    programs.mkdir()
    for name, action in STUBS.items():
        (programs / name).write_text(
            # One write for a line: the two ends of a pipe note theirs at the same time.
            f'#!/bin/bash\nprintf -v call "%q " {name} "$@"\nprintf "%s\\n" "$call" >>"$NOTES/calls"\n{action}\n'
        )
        (programs / name).chmod(0o755)
    return tmp_path


def _run(checkout: Path, *command: str) -> list[list[str]]:
    path = f"{checkout / 'programs'}:{os.environ['PATH']}"
    done = subprocess.run(
        [checkout / "deploy" / "checks" / command[0], *command[1:]],
        cwd=checkout, env={"PATH": path, "NOTES": str(checkout)}, capture_output=True, text=True, timeout=60,
    )  # fmt: skip
    assert done.returncode == 0, done.stderr[-3000:]
    return [shlex.split(line) for line in (checkout / "calls").read_text().splitlines()]


def test_the_images_and_the_compose_file_are_tried_to_the_end(checkout: Path) -> None:
    calls = _run(checkout, "containers.sh")
    assert [
        "docker",
        "build",
        "--file",
        "deploy/docker/Dockerfile",
        "--target",
        "cpu",
        "--tag",
        "isentrope:cpu",
        ".",
    ] in calls
    assert calls[-1][-2:] == ["down", "--volumes"]
    wrong = [refused_by(words) for words in calls if words[:2] in (["docker", "build"], ["docker", "run"])]
    assert wrong and not any(wrong)


def test_an_earlier_run_is_not_overwritten(checkout: Path) -> None:
    (checkout / "deploy" / "compose" / "runs" / "pair").mkdir(parents=True)
    with pytest.raises(AssertionError, match="an earlier run"):
        _run(checkout, "containers.sh")


@pytest.mark.parametrize("overlay", ["plain", "single-node", "ray"])
def test_an_overlay_is_tried_to_the_end(checkout: Path, overlay: str) -> None:
    calls = [words for words in _run(checkout, "kubernetes.sh", overlay) if words[0] == "kubectl"]
    assert ["kubectl", "apply", "--kustomize", f"deploy/kubernetes/overlays/{overlay}"] in calls
    asked = {
        tuple(words[1:]): words for words in calls if "--dry-run=client" not in words and "--filename=-" not in words
    }
    wrong = [refused_by(words) for words in asked.values()] if overlay == "plain" else []
    assert not any(wrong)


def test_the_program_accepts_what_scripts_ask_of_it() -> None:
    lines = [line for path in CHECKS.glob("*.sh") for line in path.read_text().replace("\\\n", " ").splitlines()]
    commands = [
        re.sub(r".*?isentrope (?=\w+ )", "isentrope ", line, count=1)
        for line in lines
        if re.search(r"^isentrope |-- isentrope ", line)
    ]
    assert len(commands) >= 5
    for command in commands:
        words = shlex.split(command.partition("|")[0])
        runs = [DEPLOY.parent / word for word in words if word.endswith(".toml")]
        assert list(refusals(words, *(runs or [Path()]))) == [], command

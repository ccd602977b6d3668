"""The image: a checker's findings, what it leaves out, and what the checker does not see."""

import re
from importlib.metadata import requires
from pathlib import Path

import pytest
from deploy_files import DEPLOY, STAGES, checked
from deploy_files import DOCKERFILE as TEXT

DOCKERFILE = DEPLOY / "docker" / "Dockerfile"


def test_the_checker_finds_nothing() -> None:
    found = checked("hadolint", DOCKERFILE)
    assert (found.returncode, found.stdout) == (0, "")


@pytest.mark.parametrize(
    ("given", "planted", "finding"),
    [
        ("python:3.12-slim-bookworm", "python:latest", "DL3007"),
        ("USER 1000:0", "RUN cd /tmp", "DL3003"),
        ('ENTRYPOINT ["tini", "--"]', "ENTRYPOINT tini --", "DL3025"),
        ('"torch==$TORCH"', "torch", "DL3013"),
        ("WORKDIR /runs", "WORKDIRR /runs", "missing whitespace"),
    ],
)
def test_the_checker_finds_a_planted_mistake(tmp_path: Path, given: str, planted: str, finding: str) -> None:
    assert given in TEXT
    (tmp_path / "Dockerfile").write_text(TEXT.replace(given, planted))
    found = checked("hadolint", tmp_path / "Dockerfile")
    assert found.returncode != 0 and finding in found.stdout + found.stderr


@pytest.mark.parametrize("target", ["cpu", "cuda"])
def test_a_target_ends_as_a_user_by_number(target: str) -> None:
    """The checker passes an image that runs as root."""
    assert STAGES[target].rstrip().splitlines()[-1] == "USER 1000:0"


def test_only_the_cuda_target_has_a_compiler() -> None:
    assert {name for name, text in STAGES.items() if re.search(r"install.*\bgcc libc6-dev\b", text)} == {"cuda"}
    assert "nvcc" not in re.sub(r"^#.*", "", TEXT, flags=re.MULTILINE)


def test_what_is_copied_exists_and_is_not_ignored() -> None:
    copied = {name for line in re.findall(r"^COPY (?!--)(.*) \S+$", TEXT, re.MULTILINE) for name in line.split()}
    sent = {line[1:] for line in (DEPLOY / "docker" / "Dockerfile.dockerignore").read_text().split() if line[0] == "!"}
    lost = {name for name in copied if not (DEPLOY.parent / name).exists()}
    assert lost == set()
    assert {name for name in copied if name not in sent and name.split("/")[0] not in sent} == set()


def test_the_wheel_is_built_from_all_that_the_package_links_to() -> None:
    linked = {path.name for path in (DEPLOY.parent / "src" / "isentrope").iterdir() if path.is_symlink()}
    assert linked and {f"COPY {name} {name}" for name in linked} <= set(STAGES["wheel"].splitlines())


def test_torch_is_that_of_the_makefile() -> None:
    (version,) = re.findall(r"^TORCH +\?= torch==(\S+)", (DEPLOY.parent / "Makefile").read_text(), re.MULTILINE)
    assert f"ARG TORCH={version}\n" in TEXT


@pytest.mark.parametrize("lock", ["cpu", "cuda"])
def test_rays_service_of_jobs_is_what_the_lock_lacks(lock: str) -> None:
    """Together with the lock all that `ray[default]` asks for, and nothing in two versions."""
    locked, more = (
        set(re.findall(r"^([\w.-]+)==", (DEPLOY.parent / path).read_text(), re.MULTILINE))
        for path in (f"requirements/{lock}.txt", "deploy/docker/ray-jobs.txt")
    )
    wanted = [line for line in requires("ray") or [] if 'extra == "default"' in line]
    names = {re.split(r"[<>=!; \[]", line)[0].replace("_", "-") for line in wanted}
    assert len(names) > 5 and names - locked - more == set()
    assert locked & more == set()

"""The files of Compose: by its published schema, and by what that does not see."""

import copy
import os
import re
import subprocess
from collections.abc import Iterator
from pathlib import Path
from urllib.parse import urlsplit

import pytest
import yaml
from deploy_files import DEPLOY, IMAGES, PASSWORDS, STAGES, Tree, access, password_files, refusals, schema, violations

FOLDER = DEPLOY / "compose"
COMPOSE = yaml.safe_load((FOLDER / "compose.yaml").read_text())
GPU = yaml.safe_load((FOLDER / "gpu.yaml").read_text())
RUNS = {"compose.yaml": DEPLOY / "runs" / "cpu-pair.toml", "gpu.yaml": DEPLOY / "runs" / "gsm8k-1gpu.toml"}

MADE = {"secrets/users.acl", "runs", *(f"secrets/{name}" for name in PASSWORDS)}
"""What `prepare.sh` makes."""


def _both() -> Tree:
    """Return what Compose makes of both files, as far as they go: values of tables are merged, others replaced."""

    def merged(below: object, above: object) -> object:
        if isinstance(below, dict) and isinstance(above, dict):
            return below | {key: merged(below.get(key), value) for key, value in above.items()}
        return above

    made = merged(COMPOSE, GPU)
    assert isinstance(made, dict)
    return made


PROJECTS = {"compose.yaml": COMPOSE, "gpu.yaml": _both()}


def _words(service: Tree) -> list[str]:
    """Return the command of a service with the variables of the file that `prepare.sh` writes."""
    return [re.sub(r"\$\{\w+:-(.*?)\}", r"\1", str(word)) for word in service.get("command", [])]


def findings(project: Tree, run_file: Path) -> list[str]:
    """Return what is wrong with a project that the schema accepts."""
    return [
        f"{name}: {wrong}"
        for name, service in project["services"].items()
        for wrong in _findings(service, project, run_file)
    ]


def _findings(service: Tree, project: Tree, run_file: Path) -> Iterator[str]:
    words = _words(service)
    if service["image"] not in IMAGES:
        yield f"image {service['image']}"
    if build := service.get("build"):
        dockerfile = FOLDER / build["context"] / build["dockerfile"]
        if not dockerfile.is_file() or build["target"] not in STAGES or not service["image"].endswith(build["target"]):
            yield f"build {build}"
    yield from (f"no service {name}" for name in service.get("depends_on", {}) if name not in project["services"])
    yield from (f"no secret {name}" for name in service.get("secrets", []) if name not in project["secrets"])
    read = {*re.findall(r"/run/secrets/(\S+)", " ".join(words)), *(path.name for path in password_files(words))}
    yield from (f"secret {name} is not mounted" for name in sorted(read - set(service.get("secrets", []))))
    yield from (f"no {source}" for source in _mounts(service) if not _exists(source, project))
    if url := service.get("environment", {}).get("ISENTROPE_REDIS_URL"):
        yield from access(words, url)
        yield from refusals(words, run_file)
        if f"@{host_of(url)}" not in {f"@{name}:6379" for name in project["services"]}:
            yield f"no broker at {url}"


def host_of(url: str) -> str:
    """Return host and port of a broker's URL."""
    return urlsplit(url).netloc.rpartition("@")[2]


def _mounts(service: Tree) -> list[str]:
    return [str(volume).partition(":")[0] for volume in service.get("volumes", [])]


def _exists(source: str, project: Tree) -> bool:
    if not source.startswith("."):
        return source in project["volumes"]
    return os.path.normpath(source) in MADE or (FOLDER / source).exists()


@pytest.mark.parametrize("project", [COMPOSE, GPU, _both()], ids=["compose.yaml", "gpu.yaml", "both"])
def test_the_published_schema_accepts_the_files(project: Tree) -> None:
    assert violations(project, schema("compose-spec.json")) == []


@pytest.mark.parametrize(
    ("service", "key", "value"),
    [("redis", "restrat", "always"), ("train", "stop_grace_period", 10), ("actor", "shm_size", []),
     ("train", "depends_on", {"redis": {"condition": "service_well"}})],
)  # fmt: skip
def test_the_schema_finds_a_planted_mistake(service: str, key: str, value: object) -> None:
    wrong = copy.deepcopy(COMPOSE)
    wrong["services"][service][key] = value
    assert violations(wrong, schema("compose-spec.json")) != []


@pytest.mark.parametrize("name", PROJECTS)
def test_nothing_is_wrong_that_the_schema_does_not_see(name: str) -> None:
    assert findings(PROJECTS[name], RUNS[name]) == []


@pytest.mark.parametrize(
    ("given", "planted"),
    [
        ("image: redis:7.4-bookworm", "image: redis:latest"),
        ("target: cpu", "target: cpus"),
        ("dockerfile: deploy/docker/Dockerfile", "dockerfile: docker/Dockerfile"),
        ("../redis/redis.conf:", "../redis/redis.cnf:"),
        ("broker:/data", "brokers:/data"),
        ("secrets: [actor.password]", "secrets: [learner.password]"),
        ("file: ./secrets/viewer.password", "file: ./secrets/viewers.password"),
        ("redis://actor@", "redis://learner@"),
        ("redis://viewer@redis:", "redis://viewer@broker:"),
        ("redis.passwords=", "redis.passphrases="),
        ("secrets: [command.password, learner.password, ", "secrets: [command.password, "),
        ("isentrope, actor,", "isentrope, actr,"),
        ("--bind=", "--bnd="),
        ("redis: {condition", "broker: {condition"),
    ],
)
def test_a_planted_mistake_is_found(given: str, planted: str) -> None:
    text = (FOLDER / "compose.yaml").read_text()
    assert given in text
    wrong = yaml.safe_load(text.replace(given, planted))
    found = findings(wrong, RUNS["compose.yaml"])
    lost = [each["file"] for each in wrong["secrets"].values() if not _exists(each["file"], wrong)]
    assert found + lost != []


def test_secrets_are_files_that_are_made() -> None:
    assert [each["file"] for each in COMPOSE["secrets"].values() if not _exists(each["file"], COMPOSE)] == []


def test_what_is_mounted_is_made(tmp_path: Path) -> None:
    """By the script in a copy, as the user who runs it; its Git ignores all that."""
    copied = tmp_path / "deploy"
    subprocess.run(["cp", "-r", DEPLOY, copied], check=True)
    for _again in range(2):
        subprocess.run([copied / "compose" / "prepare.sh", "mine"], check=True)
    assert {name for name in MADE if not (copied / "compose" / name).exists()} == set()
    assert (copied / "compose" / ".env").read_text() == f"ISENTROPE_RUN=mine\nISENTROPE_UID={os.getuid()}\n"
    assert {".env", "runs", "secrets"} == set((FOLDER / ".gitignore").read_text().split())


@pytest.mark.parametrize("name", PROJECTS)
def test_only_the_broker_of_others_has_a_user_of_its_own(name: str) -> None:
    """No container is root, may become root, or keeps a right that it does not need; Prometheus's image sees to it."""
    services = {each: service for each, service in PROJECTS[name]["services"].items() if each != "prometheus"}
    assert all(re.fullmatch(r"(\$\{ISENTROPE_UID:-1000\}:0|999:999)", each["user"]) for each in services.values())
    assert all(each["cap_drop"] == ["ALL"] for each in services.values())
    assert all(each["security_opt"] == ["no-new-privileges:true"] for each in services.values())


def test_nothing_listens_beyond_this_machine() -> None:
    ports = [port for service in COMPOSE["services"].values() for port in service.get("ports", [])]
    assert ports == ["127.0.0.1:9090:9090"]


def test_init_makes_the_folder_that_the_command_trains_in(tmp_path: Path) -> None:
    """As it stands, with a program that stands for isentrope; again it changes nothing."""
    (tmp_path / "isentrope").write_text('#!/bin/sh\nmkdir "$3" && echo model >"$3/model"\n')
    (tmp_path / "isentrope").chmod(0o755)
    (tmp_path / "new").mkdir()  # of an interrupted start
    shell, option, script = _words(COMPOSE["services"]["init"])
    script = script.replace("/etc/isentrope", str(DEPLOY / "runs"))
    path = f"{tmp_path}:{os.environ['PATH']}"
    for _again in range(2):
        subprocess.run([shell, option, script], check=True, cwd=tmp_path, env={"PATH": path})
    made = tmp_path / _words(COMPOSE["services"]["train"])[2]
    assert made.read_text() == RUNS["compose.yaml"].read_text() and (made.parent / "model").exists()

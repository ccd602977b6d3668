"""The manifests of Kubernetes: rendered, by its schemas, and by what the schemas do not see."""

import os
import re
import shlex
import subprocess
import tomllib
from collections.abc import Iterator
from functools import cache
from pathlib import Path

import pytest
import yaml
from deploy_files import (
    DEPLOY,
    IMAGES,
    PASSWORDS,
    Tree,
    access,
    checked,
    parsed,
    password_files,
    refusals,
    schema,
    tool,
    violations,
)

from isentrope import errors

FOLDER = DEPLOY / "kubernetes"
OVERLAYS = sorted(path.parent.name for path in (FOLDER / "overlays").glob("*/kustomization.yaml"))
MADE = {"broker-users": {"users.acl", "depot.token", "ray.token", *PASSWORDS}}
"""Keys of the Secret that `secret.sh` makes."""
RUNS = {"plain": "gsm8k-1gpu", "single-node": "gsm8k-8gpu", "ray": "dapo-7b-4nodes"}
QUANTITY = re.compile(r"\d+(\.\d+)?(m|[kMGTP]|[KMGTP]i)?")
STOPPED = 80
"""Exit code of what a signal has ended, and of actors whose run goes on later."""
CRD = "rayjobs-1.6.2.yaml"


@cache
def _render(overlay: str) -> str:
    """Return all objects of an overlay as YAML."""
    command = [tool("kubectl"), "kustomize", FOLDER / "overlays" / overlay]
    return subprocess.run(command, check=True, capture_output=True, text=True).stdout


@pytest.fixture(scope="module", params=OVERLAYS)
def rendered(request: pytest.FixtureRequest) -> list[Tree]:
    """All objects of one overlay."""
    return parsed(_render(request.param))


def _templates(each: Tree) -> list[Tree]:
    spec = each.get("spec", {})
    if each["kind"] != "RayJob":
        return [spec["template"]] if "template" in spec else []
    cluster = spec["rayClusterSpec"]
    groups = [cluster["headGroupSpec"], *cluster["workerGroupSpecs"]]
    return [spec["submitterPodTemplate"], *(group["template"] for group in groups)]


def _pods(objects: list[Tree]) -> Iterator[tuple[Tree, Tree]]:
    """Yield each object that makes pods, with each of its templates."""
    for each in objects:
        yield from ((each, template) for template in _templates(each))


def _sources(pod: Tree) -> Iterator[tuple[str, str, set[str]]]:
    """Yield kind, name and keys of all that a pod takes from other objects."""
    for volume in pod["spec"].get("volumes", []):
        match volume:
            case {"secret": {"secretName": name, **more}}:
                yield "Secret", name, {item["key"] for item in more.get("items", [])}
            case {"configMap": {"name": name}}:
                yield "ConfigMap", name, set()
            case {"persistentVolumeClaim": {"claimName": name}}:
                yield "PersistentVolumeClaim", name, set()
    for container in pod["spec"]["containers"]:
        for variable in container.get("env", []):
            if reference := variable.get("valueFrom", {}).get("secretKeyRef"):
                yield "Secret", reference["name"], {reference["key"]}


def findings(objects: list[Tree]) -> list[str]:
    """Return what is wrong with objects that the schemas accept."""
    there = {(each["kind"], each["metadata"]["name"]) for each in objects}
    wrong = [f"no {kind} {name}" for _, pod in _pods(objects) for kind, name, keys in _sources(pod)
             if ((kind, name) not in there and name not in MADE) or (name in MADE and keys - MADE[name])]  # fmt: skip
    labels = [pod["metadata"]["labels"].items() for _, pod in _pods(objects)]
    for each in objects:
        spec, name = each.get("spec", {}), each["metadata"]["name"]
        selector = spec.get("selector") or spec.get("podSelector") or {}
        if each["kind"] != "Namespace" and selector:
            wanted = selector.get("matchLabels", selector).items()
            wrong += [f"{name} selects nothing"] * (not any(wanted <= label for label in labels))
        if each["kind"] == "Job":
            wrong += [f"{name} restarts"] * (spec["template"]["spec"]["restartPolicy"] != "Never")
            actions = {rule["action"] for rule in spec["podFailurePolicy"]["rules"]}
            wrong += [f"{name}: {action}" for action in sorted(actions - {"Ignore", "FailJob", "Count", "FailIndex"})]
    for _, pod in _pods(objects):
        mounts = {volume["name"] for volume in pod["spec"].get("volumes", [])} | {"data"}
        for container in pod["spec"]["containers"]:
            wrong += [f"no volume {m['name']}" for m in container.get("volumeMounts", []) if m["name"] not in mounts]
            amounts = [amount for part in container["resources"].values() for amount in part.values()]
            wrong += [f"quantity {amount}" for amount in amounts if not QUANTITY.fullmatch(amount)]
            wrong += [f"port {p}" for p in _ports(container) if not 0 < p < 65536]
            wrong += [f"image {container['image']}"] * (container["image"] not in IMAGES)
    return wrong


def _secret_files(pod: Tree, container: Tree) -> set[Path]:
    """Return the files of secrets that a container finds."""
    volumes = {volume["name"]: volume.get("secret", {}).get("items", []) for volume in pod["spec"].get("volumes", [])}
    mounts = container.get("volumeMounts", [])
    return {Path(each["mountPath"], item["path"]) for each in mounts for item in volumes.get(each["name"], [])}


def commands(overlay: str) -> Iterator[tuple[list[str], str, set[Path]]]:
    """Yield each command line of an overlay that begins with `isentrope`, the URL of the broker it is given, and the
    files of secrets that it finds."""
    for _, pod in _pods(parsed(_render(overlay))):
        for container in pod["spec"]["containers"]:
            words = [*container.get("command", []), *container.get("args", [])]
            if container["name"] == "ray-head":  # what KubeRay has Ray start there
                script = (FOLDER / "overlays" / overlay / "train.sh").read_text()
                words = shlex.split(script.replace("\\\n", " "), comments=True)
            for variable in container.get("env", []):
                if variable["name"] == "ISENTROPE_REDIS_URL":
                    yield words, variable["value"], _secret_files(pod, container)


def _ports(container: Tree) -> list[int]:
    return [port["containerPort"] for port in container.get("ports", [])]


def _kinds_of_kubernetes(objects: list[Tree], path: Path) -> Path:
    """Write the objects that are not KubeRay's, and return the file."""
    path.write_text(yaml.safe_dump_all(each for each in objects if not each["apiVersion"].startswith("ray.io/")))
    return path


def test_its_own_checker_accepts_all(tmp_path: Path) -> None:
    files = [_kinds_of_kubernetes(parsed(_render(overlay)), tmp_path / f"{overlay}.yaml") for overlay in OVERLAYS]
    found = checked("kubernetes-validate", "--strict", *files)
    said = found.stdout + found.stderr
    assert found.returncode == 0 and "WARN" not in said and all(str(file) in said for file in files), said


def test_its_own_checker_refuses_an_unknown_key_in_any_file(tmp_path: Path) -> None:
    wrong = parsed(_render("plain").replace("backoffLimit", "backofLimit"))
    files = [
        _kinds_of_kubernetes(wrong, tmp_path / "1.yaml"),
        _kinds_of_kubernetes(parsed(_render("ray")), tmp_path / "2.yaml"),
    ]
    found = checked("kubernetes-validate", "--strict", *files)
    assert found.returncode != 0 and "backofLimit" in found.stdout + found.stderr


@cache
def _strict() -> Tree:
    """Return the schema of a RayJob that refuses unknown keys, as the server of a cluster does by strict validation."""

    def closed(node: object) -> object:
        if isinstance(node, list):
            return [closed(each) for each in node]
        if not isinstance(node, dict):
            return node
        made = {key: closed(value) for key, value in node.items()}
        if "properties" in made and not made.get("x-kubernetes-preserve-unknown-fields"):
            made.setdefault("additionalProperties", False)
        return made

    (version,) = [each for each in schema(CRD)["spec"]["versions"] if each["name"] == "v1"]
    made = closed(version["schema"]["openAPIV3Schema"])
    assert isinstance(made, dict)
    return made


def _ray_job(text: str) -> Tree:
    (job,) = [each for each in parsed(text) if each["kind"] == "RayJob"]
    job["metadata"] = {}  # its schema is Kubernetes's own
    return dict(job)


def test_the_schema_of_kuberay_accepts_the_job() -> None:
    assert violations(_ray_job(_render("ray")), _strict()) == []


@pytest.mark.parametrize(
    ("given", "planted"),
    [
        ("maxReplicas: 4", "maxReplicaz: 4"),
        ("rayVersion:", "rayVersionn:"),
        ("rayStartParams:", "rayStartParms:"),
        ("version: v2", "version: v3"),
        ("mode: token", "mode: tokn"),
        ('num-cpus: "0"', "num-cpus: 0"),
        ("backoffLimit: 3", "backoffLimit: three"),
        ("cpu: 500m", "cpu: half"),
    ],
)
def test_the_schema_of_kuberay_finds_a_planted_mistake(given: str, planted: str) -> None:
    assert given in _render("ray")
    assert violations(_ray_job(_render("ray").replace(given, planted)), _strict()) != []


def test_the_job_asks_for_the_ray_that_the_image_has() -> None:
    (locked,) = re.findall(r"^ray==(\S+)$", (DEPLOY.parent / "requirements" / "cuda.txt").read_text(), re.MULTILINE)
    cluster = _ray_job(_render("ray"))["spec"]["rayClusterSpec"]
    assert cluster["rayVersion"] == locked
    assert cluster["headGroupSpec"]["rayStartParams"] == {"num-cpus": "0"}


def test_groups_have_the_labels_and_the_room_that_the_run_asks_for() -> None:
    cluster = _ray_job(_render("ray"))["spec"]["rayClusterSpec"]
    run = tomllib.loads((DEPLOY / "runs" / f"{RUNS['ray']}.toml").read_text())
    for group, wanted in (("learner", run["learner"]["ranks"]), ("actor", run["actors"]["count"])):
        (made,) = [each for each in cluster["workerGroupSpecs"] if each["groupName"] == group]
        (container,) = made["template"]["spec"]["containers"]
        assert made["replicas"] * int(container["resources"]["limits"]["nvidia.com/gpu"]) == wanted
        assert made["labels"] == {"role": group}
        assert f"cluster.{group}_labels.role={group}" in next(commands("ray"))[0]


@pytest.mark.parametrize("overlay", OVERLAYS)
def test_the_program_accepts_what_containers_start(overlay: str) -> None:
    run = FOLDER / "overlays" / overlay / "run.toml"
    given = list(commands(overlay))
    wrong = [found for words, url, _ in given for found in (*access(words, url), *refusals(words, run))]
    assert given and wrong == []
    assert [path for words, _, files in given for path in password_files(words) if path not in files] == []


def test_nothing_is_wrong_that_it_does_not_see(rendered: list[Tree]) -> None:
    assert findings(rendered) == []


@pytest.mark.parametrize(
    ("given", "planted"),
    [
        ("action: Ignore", "action: Neglect"),
        ("restartPolicy: Never", "restartPolicy: Always"),
        ("memory: 32Gi", "memory: 32GiB"),
        ("containerPort: 6379", "containerPort: 637900"),
        ("claimName: runs", "claimName: run"),
        ("secretName: broker-users", "secretName: broker"),
        ("key: depot.token", "key: depot.tokn"),
        ("image: isentrope:cuda", "image: isentrope:gpu"),
        ("part: broker\n  serviceName", "part: brocker\n  serviceName"),
    ],
)
def test_a_planted_mistake_is_found(given: str, planted: str) -> None:
    text = _render("plain")
    assert given in text
    assert findings(parsed(text.replace(given, planted))) != []


def test_the_codes_are_those_of_the_errors(rendered: list[Tree]) -> None:
    """Each code of a program's own has one rule; what another start may cure is counted."""
    kinds = [
        each for each in vars(errors).values() if isinstance(each, type) and issubclass(each, errors.IsentropeError)
    ]
    for job in (each for each in rendered if each["kind"] == "Job"):
        rules = [rule for rule in job["spec"]["podFailurePolicy"]["rules"] if "onExitCodes" in rule]
        codes = {rule["action"]: set(rule["onExitCodes"]["values"]) for rule in rules}
        assert codes["FailJob"] | codes["Count"] == {kind.exit_code for kind in kinds} | {STOPPED}
        assert codes["FailJob"] & codes["Count"] == set()
        assert codes["Count"] == {69, 70, 74, 78, STOPPED}
        names = {container["name"] for container in job["spec"]["template"]["spec"]["containers"]}
        assert {rule["onExitCodes"]["containerName"] for rule in rules} <= names


@pytest.mark.parametrize("overlay", OVERLAYS)
def test_what_was_stopped_is_not_done(overlay: str) -> None:
    """Of a pod that is moved the exit code alone says whether its Job needs another."""
    assert STOPPED not in {kind.exit_code for kind in vars(errors).values() if hasattr(kind, "exit_code")}
    given = [words for words, _, _ in commands(overlay) if {"train", "actor"} & set(words)]
    assert given and all(f"--stopped-code={STOPPED}" in words for words in given)


def test_no_container_is_root_or_may_become_so(rendered: list[Tree]) -> None:
    for _, pod in _pods(rendered):
        spec = pod["spec"]
        assert spec["securityContext"]["runAsNonRoot"] and spec["securityContext"]["runAsUser"] > 0
        assert all(not each["securityContext"]["allowPrivilegeEscalation"] for each in spec["containers"])


def test_every_way_in_is_named(rendered: list[Tree]) -> None:
    """But for pods of one kind among themselves, to which all is open."""
    policies = {each["metadata"]["name"]: each["spec"] for each in rendered if each["kind"] == "NetworkPolicy"}
    assert policies.pop("deny-all") == {"podSelector": {}, "policyTypes": ["Ingress"]}
    rules = [(spec["podSelector"], rule) for spec in policies.values() for rule in spec["ingress"]]
    assert all("ports" in rule or rule["from"] == [{"podSelector": pods}] for pods, rule in rules)
    opened = {port["port"] for _, rule in rules for port in rule.get("ports", [])}
    assert opened == {port for _, pod in _pods(rendered) for each in pod["spec"]["containers"] for port in _ports(each)}


def test_copies_are_equal() -> None:
    """Kustomize reads no file outside its folder."""
    assert (FOLDER / "base" / "redis.conf").read_text() == (DEPLOY / "redis" / "redis.conf").read_text()
    assert sorted(RUNS) == OVERLAYS
    for overlay, run in RUNS.items():
        copied = (FOLDER / "overlays" / overlay / "run.toml").read_text()
        assert copied == (DEPLOY / "runs" / f"{run}.toml").read_text()


def test_the_secret_has_what_the_manifests_ask_for(tmp_path: Path) -> None:
    """As the script makes it, with a program that stands for `kubectl`; a second time it is the same."""
    (tmp_path / "kubectl").write_text('#!/bin/sh\necho "$*" >>"$NOTES"\n')
    (tmp_path / "kubectl").chmod(0o755)
    env = {"PATH": f"{tmp_path}:{os.environ['PATH']}", "NOTES": str(tmp_path / "calls")}
    made = []
    for _again in range(2):
        subprocess.run([FOLDER / "secret.sh", "gsm8k", tmp_path / "secret"], check=True, env=env)
        made.append({path.name: path.read_text() for path in (tmp_path / "secret").iterdir()})
    assert made[0] == made[1] and made[0].keys() == MADE["broker-users"]
    created = f"create secret generic broker-users --namespace=isentrope --from-file={tmp_path / 'secret'}"
    assert created in (tmp_path / "calls").read_text()

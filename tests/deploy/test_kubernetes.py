"""The manifests of Kubernetes: rendered, by its schemas, and by what the schemas do not see."""

import copy
import re
import subprocess
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
import yaml
from deploy_files import DEPLOY, checked, tool

from isentrope import errors

FOLDER = DEPLOY / "kubernetes"
OVERLAYS = sorted(path.parent.name for path in (FOLDER / "overlays").glob("*/kustomization.yaml"))
MADE = {"broker-users": {"users.acl", "actor.password", "learner.password", "depot.token"}}
"""Keys of the Secret that `secret.sh` makes, as far as manifests name them."""
QUANTITY = re.compile(r"\d+(\.\d+)?(m|[kMGTP]|[KMGTP]i)?")

Object = dict[str, Any]


@pytest.fixture(scope="module", params=OVERLAYS)
def rendered(request: pytest.FixtureRequest) -> list[Object]:
    """All objects of one overlay."""
    made = subprocess.run(
        [tool("kubectl"), "kustomize", FOLDER / "overlays" / request.param], check=True, capture_output=True, text=True
    )
    return list(yaml.safe_load_all(made.stdout))


def _pods(objects: list[Object]) -> Iterator[tuple[Object, Object]]:
    """Yield each object that makes pods, and its template."""
    for each in objects:
        if "template" in each.get("spec", {}):
            yield each, each["spec"]["template"]


def _sources(pod: Object) -> Iterator[tuple[str, str, set[str]]]:
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


def findings(objects: list[Object]) -> list[str]:
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
    return wrong


def _ports(container: Object) -> list[int]:
    return [port["containerPort"] for port in container.get("ports", [])]


def test_its_own_checker_accepts_all(rendered: list[Object], tmp_path: Path) -> None:
    (tmp_path / "all.yaml").write_text(yaml.safe_dump_all(rendered))
    found = checked("kubernetes-validate", "--strict", tmp_path / "all.yaml")
    assert found.returncode == 0 and "WARN" not in found.stdout + found.stderr, found.stdout + found.stderr


def test_its_own_checker_refuses_an_unknown_key(rendered: list[Object], tmp_path: Path) -> None:
    wrong = copy.deepcopy(rendered)
    next(each for each in wrong if each["kind"] == "Job")["spec"]["backofLimit"] = 3
    (tmp_path / "all.yaml").write_text(yaml.safe_dump_all(wrong))
    assert checked("kubernetes-validate", "--strict", tmp_path / "all.yaml").returncode != 0


def test_nothing_is_wrong_that_it_does_not_see(rendered: list[Object]) -> None:
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
        ("part: broker\n  serviceName", "part: brocker\n  serviceName"),
    ],
)
def test_a_planted_mistake_is_found(rendered: list[Object], given: str, planted: str) -> None:
    text = yaml.safe_dump_all(rendered)
    assert given in text
    assert findings(list(yaml.safe_load_all(text.replace(given, planted)))) != []


def test_the_codes_are_those_of_the_errors(rendered: list[Object]) -> None:
    """Each code of a program's own has one rule; what another start may cure is counted."""
    kinds = [
        each for each in vars(errors).values() if isinstance(each, type) and issubclass(each, errors.IsentropeError)
    ]
    for job in (each for each in rendered if each["kind"] == "Job"):
        rules = [rule for rule in job["spec"]["podFailurePolicy"]["rules"] if "onExitCodes" in rule]
        codes = {rule["action"]: set(rule["onExitCodes"]["values"]) for rule in rules}
        assert codes["FailJob"] | codes["Count"] == {kind.exit_code for kind in kinds}
        assert codes["FailJob"] & codes["Count"] == set()
        assert codes["Count"] == {69, 70, 74, 78}
        names = {container["name"] for container in job["spec"]["template"]["spec"]["containers"]}
        assert {rule["onExitCodes"]["containerName"] for rule in rules} <= names


def test_no_container_is_root_or_may_become_so(rendered: list[Object]) -> None:
    for _, pod in _pods(rendered):
        spec = pod["spec"]
        assert spec["securityContext"]["runAsNonRoot"] and spec["securityContext"]["runAsUser"] > 0
        assert all(not each["securityContext"]["allowPrivilegeEscalation"] for each in spec["containers"])


def test_every_way_in_is_named(rendered: list[Object]) -> None:
    policies = {each["metadata"]["name"]: each["spec"] for each in rendered if each["kind"] == "NetworkPolicy"}
    assert policies.pop("deny-all") == {"podSelector": {}, "policyTypes": ["Ingress"]}
    opened = {port["port"] for spec in policies.values() for rule in spec["ingress"] for port in rule["ports"]}
    assert opened == {port for _, pod in _pods(rendered) for each in pod["spec"]["containers"] for port in _ports(each)}


def test_copies_are_equal() -> None:
    """Kustomize reads no file outside its folder."""
    assert (FOLDER / "base" / "redis.conf").read_text() == (DEPLOY / "redis" / "redis.conf").read_text()
    run = (FOLDER / "overlays" / "plain" / "run.toml").read_text()
    assert run == (DEPLOY / "runs" / "gsm8k-1gpu.toml").read_text()


def test_the_files_are_tidy() -> None:
    found = checked("yamllint", "--strict", "--config-file", DEPLOY / ".yamllint", FOLDER)
    assert (found.returncode, found.stdout) == (0, "")

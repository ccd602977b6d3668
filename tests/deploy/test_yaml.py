"""The form of the YAML files."""

from deploy_files import DEPLOY, checked

FILES = ("compose", "kubernetes", "monitoring/prometheus.yaml")


def test_the_files_are_tidy() -> None:
    found = checked("yamllint", "--strict", "--config-file", DEPLOY / ".yamllint", *(DEPLOY / name for name in FILES))
    assert (found.returncode, found.stdout) == (0, "")

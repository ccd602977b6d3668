"""Each machine finds its own way to the others, and what its administrator has set stays."""

import os
import socket

import psutil
import pytest

from isentrope import environment
from isentrope.launch.surroundings import Surroundings, route

MEETING = ("GLOO_SOCKET_IFNAME", "NCCL_SOCKET_IFNAME")


@pytest.fixture(autouse=True)
def _restored(monkeypatch: pytest.MonkeyPatch) -> None:
    for name in (*environment.defaults(cpu=True, offline=True), *MEETING):
        monkeypatch.setenv(name, "")
        monkeypatch.delenv(name)


def test_the_route_to_an_address_is_the_interface_that_has_it() -> None:
    for name, addresses in psutil.net_if_addrs().items():
        for each in addresses:
            if each.family == socket.AF_INET and not name.startswith("lo"):
                assert route(each.address) == name


def test_a_name_that_points_to_loopback_decides_nothing(monkeypatch: pytest.MonkeyPatch) -> None:
    """Debian gives a machine's own name the address 127.0.1.1."""
    monkeypatch.setattr(socket, "gethostname", lambda: "localhost")
    (address, name) = next(
        (each.address, name)
        for name, addresses in psutil.net_if_addrs().items()
        for each in addresses
        if each.family == socket.AF_INET
    )
    Surroundings(cpu=True, head=address).enter(alone=False)
    assert os.environ["GLOO_SOCKET_IFNAME"] == name


def test_a_host_without_an_address_leaves_the_choice_to_gloo() -> None:
    assert route("no-such-host.invalid") == ""
    Surroundings(cpu=True, head="no-such-host.invalid").enter(alone=False)
    assert "GLOO_SOCKET_IFNAME" not in os.environ


def test_processes_of_one_machine_meet_on_it_alone() -> None:
    Surroundings(cpu=True).enter(alone=False)
    assert os.environ["GLOO_SOCKET_IFNAME"] == environment.LOOPBACK


def test_an_engines_own_processes_meet_on_their_machine_though_ranks_are_elsewhere() -> None:
    Surroundings(cpu=True, head="10.0.0.1", interface="eth7").enter(alone=True)
    assert os.environ["GLOO_SOCKET_IFNAME"] == environment.LOOPBACK and "NCCL_SOCKET_IFNAME" not in os.environ


@pytest.mark.parametrize("name", ["GLOO_SOCKET_IFNAME", "OMP_NUM_THREADS", "HF_HUB_OFFLINE"])
def test_what_a_machines_administrator_has_set_stays(name: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv(name, "7")
    Surroundings(cpu=True, head="127.0.0.1").enter(alone=False)
    assert os.environ[name] == "7"


def test_an_interface_of_the_run_file_is_taken_by_gloo_and_nccl_whatever_was_set(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setenv("GLOO_SOCKET_IFNAME", "eth1")
    Surroundings(cpu=False, head="10.0.0.1", interface="eth7").enter(alone=False)
    assert [os.environ[name] for name in MEETING] == ["eth7", "eth7"]


def test_the_commands_secrets_reach_nothing_that_a_process_starts(monkeypatch: pytest.MonkeyPatch) -> None:
    """Reward functions run in processes that an actor starts."""
    monkeypatch.setenv("ISENTROPE_REDIS_URL", "redis://:secret@host")
    Surroundings(cpu=True, secrets=("ISENTROPE_REDIS_URL", "ISENTROPE_DEPOT_TOKEN")).enter(alone=True)
    assert "ISENTROPE_REDIS_URL" not in environment.environment_with({})

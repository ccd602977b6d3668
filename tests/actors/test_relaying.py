"""Machines that pass versions on: the depot sends each byte once, and what others enter harms nobody."""

import threading
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import ExitStack
from pathlib import Path

import pytest
from depot_kinds import CONTENTS, TOKEN, make_version
from wire_records import make_spec

from isentrope.actors.relaying import Offer, Relaying, address_towards
from isentrope.actors.run_files import Places, RunFiles, Wanted
from isentrope.errors import AccessError, UnreachableError
from isentrope.rollout.broker.connection import Broker
from isentrope.rollout.broker.relay_list import RelayList
from isentrope.rollout.depot import relays as relays_module
from isentrope.rollout.depot.access import Access
from isentrope.rollout.depot.relays import token_of_relays
from isentrope.rollout.depot.remote_depot import RemoteDepot
from isentrope.rollout.depot.server import Address, DepotServer
from isentrope.rollout.wire.weights import Manifest, verify

DIGEST = "0a" * 32


@pytest.fixture
def broker(redis_server: str, run_name: str) -> Iterator[Broker]:
    broker = Broker.connect(redis_server, run_name)
    yield broker
    broker.close()


def relaying(broker: Broker, cache: Path, *, port: int = 0, token: str = TOKEN, address: str = "127.0.0.1") -> Relaying:
    return Relaying(RelayList(broker), Offer(cache, token, address, port))


def urls(broker: Broker) -> set[str]:
    """All that are listed."""
    return {url.decode() for url in broker.run(lambda client: client.hgetall(broker.keys.relays))}


def test_of_machines_that_fetch_at_once_one_fetches_from_the_depot(
    broker: Broker, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(relays_module, "STILL_S", 60.0)
    monkeypatch.setattr(relays_module, "COMPARE_S", 60.0)
    manifest = make_version(tmp_path / "run")
    sent: list[str] = []

    def counted(root: Path, name: str) -> Path:
        sent.append(name)
        return root / name

    with ExitStack() as stack:
        server = DepotServer(tmp_path / "run", Address("127.0.0.1", 0), TOKEN, place=counted)
        depot = stack.enter_context(server).url
        machines = [relaying(broker, tmp_path / str(number) / "r" / "weights") for number in range(4)]
        for machine in machines:
            stack.callback(machine.close)
        begin = threading.Barrier(len(machines))

        def load(number: int) -> list[bytes]:
            spec = make_spec("r", depots=(depot,))
            places = Places(cache=tmp_path / str(number), access=Access(TOKEN))
            files = RunFiles(spec, places, 60.0, machines[number])
            announced = Manifest.model_validate_json(manifest.model_dump_json())
            begin.wait(60)
            with files.version(Wanted(manifest.version, announced, ()), threading.Event()) as local:
                return [path.read_bytes() for path in verify(local)]

        with ThreadPoolExecutor(len(machines)) as threads:
            for content in threads.map(load, range(len(machines))):
                assert content == [each + b"1" for each in CONTENTS]
        assert len(urls(broker)) == len(machines)
    assert len(sent) == len(set(sent)) > 0
    assert urls(broker) == set()


@pytest.mark.parametrize(
    "url",
    [
        *("file:///etc", "s3://bucket/x", "https://host:1", "http://user:word@host:1"),
        *("http://host:1/x?y", "http://", "x"),
    ],
)
def test_only_what_a_relay_can_have_is_opened(broker: Broker, tmp_path: Path, url: str) -> None:
    RelayList(broker).enter(url, DIGEST)
    machine = relaying(broker, tmp_path)
    assert [*machine.having(f"blake3:{DIGEST}")] == []
    machine.close()


def test_one_that_failed_is_not_returned_again(broker: Broker, tmp_path: Path) -> None:
    one, two = relaying(broker, tmp_path), relaying(broker, tmp_path)
    assert [*one.having(DIGEST)] == []
    (relay,) = two.having(DIGEST)
    two.avoid(relay.url)
    assert [*two.having(DIGEST)] == []
    one.close()
    two.close()


def test_what_is_offered_needs_a_token_that_is_not_the_depots(broker: Broker, tmp_path: Path) -> None:
    machine = relaying(broker, tmp_path)
    machine.having(DIGEST)
    (url,) = urls(broker)
    for token in ("", TOKEN, "another"):
        with pytest.raises(AccessError, match="401"):
            RemoteDepot(url, Access(token)).read(f"weights/{DIGEST}/a", 0, 1)
    (tmp_path / DIGEST).mkdir()
    (tmp_path / DIGEST / "a").write_bytes(b"x")
    relay = RemoteDepot(url, Access(token_of_relays(TOKEN)))
    assert relay.read(f"weights/{DIGEST}/a", 0, 1) == b"x"
    machine.close()
    with pytest.raises(UnreachableError):
        relay.read(f"weights/{DIGEST}/a", 0, 1)


def test_actors_of_one_machine_share_a_port(broker: Broker, tmp_path: Path) -> None:
    with DepotServer(tmp_path, Address("127.0.0.1", 0), "") as probe:
        port = probe.port
    machines = [relaying(broker, tmp_path, port=port) for _ in range(2)]
    for machine in machines:
        assert [*machine.having(DIGEST)] == []
    assert urls(broker) == {f"http://127.0.0.1:{port}"}
    for machine in machines:
        machine.close()


@pytest.mark.parametrize(
    ("token", "address", "said"),
    [("", "10.1.2.3", "could read the weights"), (TOKEN, "192.0.2.1", "cannot listen"), (TOKEN, "", "")],
)
def test_one_that_cannot_offer_anything_still_uses_relays(
    broker: Broker, tmp_path: Path, caplog: pytest.LogCaptureFixture, token: str, address: str, said: str
) -> None:
    other, machine = relaying(broker, tmp_path), relaying(broker, tmp_path, token=token, address=address)
    other.having(DIGEST)
    for _ in range(2):
        assert len(machine.having(DIGEST)) == 1
    assert len(urls(broker)) == 1
    assert [record.message.startswith("nothing is offered") for record in caplog.records] == [True] * bool(said)
    assert said in caplog.text
    other.close()
    machine.close()


def test_a_broker_that_refuses_costs_the_relays_alone(
    broker: Broker, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    """Its access rules may be older than relays."""

    def refuses(*arguments: object) -> list[str]:
        raise AccessError("no permission")

    machine = relaying(broker, tmp_path)
    monkeypatch.setattr(RelayList, "enter", refuses)
    monkeypatch.setattr(RelayList, "withdraw", refuses)
    assert machine.having(DIGEST) == ()
    machine.close()
    assert "no relays are used" in caplog.text and "stays listed" in caplog.text


def test_the_address_is_the_one_that_packets_to_the_broker_have() -> None:
    assert address_towards("redis://:word@127.0.0.1:6379/0") == "127.0.0.1"
    assert address_towards("unix://:word@/tmp/redis.sock") == address_towards("redis://no.such.host.invalid:1") == ""

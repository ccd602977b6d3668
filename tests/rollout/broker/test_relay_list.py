"""The list of relays: for whatever order in which machines enter it, no wait of one for another goes round."""

from collections.abc import Iterator

import pytest
from hypothesis import given
from hypothesis import strategies as st

from isentrope.rollout.broker import relay_list
from isentrope.rollout.broker.connection import Broker
from isentrope.rollout.broker.relay_list import KEPT, RelayList

DIGESTS = ("0a", "0b", "0c")


@pytest.fixture(scope="module")
def broker(redis_server: str) -> Iterator[Broker]:
    broker = Broker.connect(redis_server, "run-of-relays")
    yield broker
    broker.close()


@pytest.fixture
def listed(broker: Broker) -> RelayList:
    broker.run(lambda client: client.delete(broker.keys.relays))
    return RelayList(broker)


entries = st.tuples(st.sampled_from([f"http://m{number}:1" for number in range(5)]), st.sampled_from(DIGESTS))


@given(st.lists(st.one_of(entries, entries.map(lambda entry: entry[0])), max_size=30))
def test_nobody_waits_for_who_waits_for_it(broker: Broker, steps: list[tuple[str, str] | str]) -> None:
    """Machines enter a version, again after a failure, and leave; each gets all that were entered with it before."""
    broker.run(lambda client: client.delete(broker.keys.relays))
    listed, order = RelayList(broker), {digest: list[str]() for digest in DIGESTS}
    kept: dict[str, list[str]] = {}
    for step in steps:
        if isinstance(step, str):
            listed.withdraw(step)
            for digest in kept.pop(step, []):
                order[digest].remove(step)
            continue
        url, digest = step
        mine = [*(each for each in kept.get(url, []) if each != digest), digest]
        for forgotten in mine[:-KEPT]:
            order[forgotten].remove(url)
        kept[url] = mine[-KEPT:]
        if url not in order[digest]:
            order[digest].append(url)
        assert sorted(listed.enter(url, digest)) == sorted(order[digest][: order[digest].index(url)])


def test_a_machine_that_offers_nothing_gets_all(listed: RelayList) -> None:
    assert listed.enter("http://m1:1", "0a") == []
    assert listed.enter("", "0a") == ["http://m1:1"] == listed.enter("", "0a")
    assert listed.enter("", "0b") == []


def test_the_list_is_bounded_and_forgets(listed: RelayList, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(relay_list, "MAX_RELAYS", 2)
    for number in range(4):
        listed.enter(f"http://m{number}:1", "0a")
    assert sorted(listed.enter("", "0a")) == ["http://m0:1", "http://m1:1"]
    monkeypatch.setattr(relay_list, "EXPIRES_S", -2.0)
    assert listed.enter("http://m9:1", "0a") == []
    assert listed.enter("", "0a") == []


@pytest.mark.parametrize("record", ["", "x", "0a=9", '{"versions":"0a=1"}', '{"versions":"0a=999999999999999999999"}'])
def test_what_another_has_written_there_stops_nobody(broker: Broker, listed: RelayList, record: str) -> None:
    broker.run(lambda client: client.hset(broker.keys.relays, "http://liar:1", record))
    assert set(listed.enter("http://m1:1", "0a")) <= {"http://liar:1"}
    assert set(listed.enter("", "0a")) <= {"http://liar:1", "http://m1:1"}


@pytest.mark.parametrize("kept", [0, -1, KEPT])
def test_the_script_ends_for_any_number_of_versions(broker: Broker, listed: RelayList, kept: int) -> None:
    """Any actor may call the script with its own values; a script that goes on for ever stops everybody."""
    assert broker.call("relay", "http://m1:1", "0a", kept, 9, 60) == []
    assert broker.call("relay", "http://m1:1", "0b", kept, 9, 60) == []


def test_a_record_that_is_no_record_is_deleted_and_not_searched(broker: Broker, listed: RelayList) -> None:
    """A pattern that begins anew at every character of a million would keep the server busy for many minutes."""
    broker.run(lambda client: client.hset(broker.keys.relays, "http://m2:1", "a" * 1_000_000))
    assert listed.enter("http://m1:1", "0a") == []
    assert not broker.run(lambda client: client.hexists(broker.keys.relays, "http://m2:1"))

"""Whatever relays do, the bytes are right, and the depot sends no file more than twice."""

import contextlib
import tempfile
import threading
from collections.abc import Sequence
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import pytest
from bad_relays import BadRelay, Fault
from depot_kinds import CONTENTS, TOKEN, Elsewhere, Kind, make_version, published
from hypothesis import given, settings
from hypothesis import strategies as st

from isentrope.errors import StorageError, UnreachableError
from isentrope.rollout.depot import relays as relays_module
from isentrope.rollout.depot.access import Access
from isentrope.rollout.depot.fetching import FetchStopped
from isentrope.rollout.depot.folder_depot import FolderDepot
from isentrope.rollout.depot.interface import Depot
from isentrope.rollout.depot.relays import MAX_TRIED, RelayedVersion, in_cache, token_of_relays
from isentrope.rollout.depot.remote_depot import Deadlines, RemoteDepot
from isentrope.rollout.depot.server import Address, DepotServer
from isentrope.rollout.depot.versions import Versions, files_of
from isentrope.rollout.wire.digests import file_name
from isentrope.rollout.wire.weights import Manifest, verify

SOON = Deadlines(connect_s=1.0, silence_s=0.2, request_s=0.5)

RIGHT = [content + b"1" for content in CONTENTS]


class Known:
    """Relays that are known, and those of them that were said to have failed."""

    def __init__(self, *relays: Depot) -> None:
        self.relays = relays
        self.failed: set[str] = set()
        self.told: list[str] = []

    def having(self, digest: str) -> Sequence[Depot]:
        self.told.append(digest)
        return self.relays

    def avoid(self, url: str) -> None:
        self.failed.add(url)


def size_of(manifest: Manifest) -> int:
    return sum(shard.size_bytes for shard in files_of(manifest))


def loaded(versions: Versions, manifest: Manifest) -> list[bytes]:
    with versions.local(manifest) as local:
        return [path.read_bytes() for path in verify(local)]


@settings(max_examples=30)
@given(schedules=st.lists(st.lists(st.sampled_from(Fault), max_size=4), max_size=MAX_TRIED + 1))
def test_the_right_bytes_come_whatever_relays_do(schedules: list[list[Fault]]) -> None:
    with contextlib.ExitStack() as stack:
        patch = stack.enter_context(pytest.MonkeyPatch.context())
        patch.setattr(relays_module, "STILL_S", 0.2)
        patch.setattr(relays_module, "POLL_S", 0.01)
        folder = Path(stack.enter_context(tempfile.TemporaryDirectory()))
        manifest = make_version(folder)
        depot = Elsewhere(FolderDepot(folder))
        bad = [stack.enter_context(BadRelay(Path(manifest.folder), each)) for each in schedules]
        known = Known(*(RemoteDepot(each.url, Access(), SOON) for each in bad))
        assert loaded(Versions(depot, folder / "cache", known), manifest) == RIGHT
        assert known.told == [manifest.digest]
        assert depot.read_bytes <= 2 * size_of(manifest)


@pytest.mark.parametrize("fault", set(Fault) - {Fault.NONE, Fault.SHORT, Fault.EMPTY, Fault.NOT_YET})
def test_a_relay_that_fails_is_named_and_left(tmp_path: Path, fault: Fault) -> None:
    manifest = make_version(tmp_path)
    depot = Elsewhere(FolderDepot(tmp_path))
    with BadRelay(Path(manifest.folder), [fault]) as bad, BadRelay(Path(manifest.folder), []) as good:
        known = Known(RemoteDepot(bad.url, Access(), SOON), RemoteDepot(good.url, Access()))
        assert loaded(Versions(depot, tmp_path / "cache", known), manifest) == RIGHT
    assert known.failed == {bad.url}
    assert depot.read_bytes == (manifest.shards[0].size_bytes if fault is Fault.WRONG else 0)


def test_what_an_earlier_try_has_left_is_not_believed(tmp_path: Path) -> None:
    """It may have come from a relay that lied."""
    manifest = make_version(tmp_path)
    place = tmp_path / "cache" / "weights" / f"{file_name(manifest.digest)}.part" / manifest.shards[0].file
    place.parent.mkdir(parents=True)
    place.write_bytes(b"lies")
    assert loaded(Versions(Elsewhere(FolderDepot(tmp_path)), tmp_path / "cache"), manifest) == RIGHT


def test_a_depot_that_lies_is_found_out_at_once(tmp_path: Path, kind: Kind) -> None:
    manifest = published(kind, tmp_path / "run")
    kind.damage(f"weights/{manifest.version}/{manifest.shards[0].file}", b"?" * manifest.shards[0].size_bytes)
    depot = Elsewhere(kind.read)
    with pytest.raises(StorageError, match="has another digest"):
        loaded(Versions(depot, tmp_path / "cache", Known()), manifest)
    assert depot.read_bytes == manifest.shards[0].size_bytes


def test_one_follows_another_that_still_fetches(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """The depot sends each byte once: the second takes from the first what that has, and waits for the rest."""
    monkeypatch.setattr(relays_module, "STILL_S", 60.0)
    monkeypatch.setattr(relays_module, "COMPARE_S", 60.0)
    manifest = make_version(tmp_path / "run")
    followed = threading.Event()
    origin, unused = (Elsewhere(FolderDepot(tmp_path / "run")) for _ in range(2))

    def hold(start: int) -> None:
        if start >= 200:
            assert followed.wait(60)

    origin.before_read = hold

    class Follower(RemoteDepot):
        def read(self, name: str, start: int, end: int) -> bytes:
            content = super().read(name, start, end)
            if content:
                followed.set()
            return content

    caches = [tmp_path / name for name in ("one", "two")]
    server = DepotServer(caches[0] / "weights", Address("127.0.0.1", 0), TOKEN, place=in_cache)
    with server, ThreadPoolExecutor(2) as threads:
        one = threads.submit(loaded, Versions(origin, caches[0]), manifest)
        part = caches[0] / "weights" / f"{file_name(manifest.digest)}.part" / manifest.shards[0].file
        while not part.is_file() and not one.done():
            followed.wait(0.01)
        known = Known(Follower(server.url, Access(TOKEN)))
        two = threads.submit(loaded, Versions(unused, caches[1], known), manifest)
        assert one.result() == two.result() == RIGHT
    assert (origin.read_bytes, unused.read_bytes) == (size_of(manifest), 0)


def test_a_cache_is_served_by_digest_complete_or_not_and_nothing_else(tmp_path: Path) -> None:
    digest = "0123456789abcdef" * 4
    (tmp_path / "secret").write_text("private")
    (tmp_path / f"{digest}.part").mkdir()
    (tmp_path / f"{digest}.part" / "a.safetensors").write_bytes(b"begin")
    with DepotServer(tmp_path, Address("127.0.0.1", 0), TOKEN, place=in_cache) as server:
        relay = RemoteDepot(server.url, Access(TOKEN))
        name = f"weights/{digest}/a.safetensors"
        assert relay.read(name, 0, 9) == b"begin"
        assert relay.read(name, 5, 9) == b""
        assert relay.read(f"weights/{digest}/b.safetensors", 0, 9) == b"", "it may come"
        (tmp_path / f"{digest}.part").rename(tmp_path / digest)
        assert relay.read(name, 1, 9) == b"egin"
        for other in (f"weights/{digest[::-1]}/a.safetensors", "weights/1/a.safetensors", "bundle/secret"):
            with pytest.raises(StorageError, match="not there"):
                relay.read(other, 0, 9)
    assert in_cache(tmp_path, f"weights/{digest}/../secret") is None


def test_relays_do_not_get_the_token_of_the_depot() -> None:
    assert token_of_relays("") == "" and len({TOKEN, token_of_relays(TOKEN), token_of_relays("another")}) == 3


class Paced(Elsewhere):
    """A depot that takes so many seconds for each read, on a clock of its own, or does not answer."""

    def __init__(self, root: Path, clock: list[float], seconds: float, *, answers: bool = True) -> None:
        super().__init__(FolderDepot(root))
        self._clock, self._seconds, self._answers = clock, seconds, answers

    def read(self, name: str, start: int, end: int) -> bytes:
        self._clock[0] += self._seconds
        if not self._answers:
            raise UnreachableError("does not answer")
        return super().read(name, start, end)


@pytest.mark.parametrize(("relay_s", "depot_s", "left"), [(3.0, 1.0, True), (3.0, 2.0, False), (20.0, 9.0, True)])
def test_a_relay_that_is_far_slower_than_the_depot_is_left(
    tmp_path: Path, relay_s: float, depot_s: float, left: bool
) -> None:
    digest = "1" * 19  # the relay's names are then the depot's
    folder = tmp_path / "weights" / digest
    folder.mkdir(parents=True)
    (folder / "a").write_bytes(b"x" * 4000)
    for answers in (True, False):
        clock = [0.0]
        depot, relay = Paced(tmp_path, clock, depot_s, answers=answers), Paced(tmp_path, clock, relay_s)
        source = RelayedVersion(depot, Known(relay), f"blake3:{digest}", lambda: False, lambda clock=clock: clock[0])
        read = [source.read(f"weights/{digest}/a", start, start + 100) for start in range(0, 4000, 100)]
        assert b"".join(read) == b"x" * 4000
        assert (source.relayed, source.direct) == (relay.read_bytes, depot.read_bytes)
        if not answers:
            assert depot.read_bytes == 0, "it could not be compared"
        elif left:
            assert relay.read_bytes <= 400
        else:
            assert relay.read_bytes > 3000


def test_a_relay_that_was_slow_and_wrong_is_not_compared(tmp_path: Path) -> None:
    digest, clock = "1" * 19, [0.0]
    (tmp_path / "weights" / digest).mkdir(parents=True)
    (tmp_path / "weights" / digest / "a").write_bytes(b"x")
    relay = Paced(tmp_path, clock, 60.0)
    source = RelayedVersion(FolderDepot(tmp_path), Known(relay), f"blake3:{digest}", lambda: False, lambda: clock[0])
    assert source.read(f"weights/{digest}/a", 0, 1) == b"x"
    assert source.discredit()
    assert [source.read(f"weights/{digest}/a", 0, 1) for _ in range(2)] == [b"x", b"x"]
    assert relay.read_bytes == 1


def test_a_wait_for_a_relay_ends_with_the_process(tmp_path: Path) -> None:
    manifest = make_version(tmp_path)
    with BadRelay(Path(manifest.folder), [Fault.NOT_YET] * 1000) as bad:
        known = Known(RemoteDepot(bad.url, Access()))
        source = RelayedVersion(FolderDepot(tmp_path), known, manifest.digest, lambda: True)
        with pytest.raises(FetchStopped):
            source.read(f"weights/{manifest.version}/{manifest.shards[0].file}", 0, 100)


def test_a_version_that_is_here_already_is_told_of(tmp_path: Path) -> None:
    manifest, known = make_version(tmp_path / "run"), Known()
    for _ in range(2):
        loaded(Versions(Elsewhere(FolderDepot(tmp_path / "run")), tmp_path / "cache", known), manifest)
    assert known.told == [manifest.digest] * 2


def test_a_folder_that_is_renamed_between_two_looks_is_found(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """A machine's fetch ends at any moment; its followers must not take it for one without the version."""
    digest = "0a" * 32
    part, final = tmp_path / f"{digest}.part", tmp_path / digest
    part.mkdir()
    look = Path.is_dir

    def is_dir(path: Path) -> bool:
        found = look(path)
        if look(part):
            part.rename(final)
        return found

    monkeypatch.setattr(Path, "is_dir", is_dir)
    assert in_cache(tmp_path, f"weights/{digest}/a") is not None
    assert in_cache(tmp_path, f"weights/{digest}/a") == final / "a"

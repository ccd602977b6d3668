"""What every kind of depot promises, through the cache: the right bytes, or one typed error and nothing kept."""

import threading
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import pytest
from depot_kinds import CONTENTS, Elsewhere, Kind, make_version, published

from isentrope.errors import AccessError, ConfigError, InternalError, StorageError, UnreachableError
from isentrope.rollout.depot.access import Access
from isentrope.rollout.depot.fetching import FetchStopped
from isentrope.rollout.depot.interface import is_read_only, open_depot
from isentrope.rollout.depot.versions import KEEP, Versions, publish, withdraw
from isentrope.rollout.wire.digests import file_name
from isentrope.rollout.wire.weights import Manifest, verify


def copies(cache: Path) -> list[str]:
    """Names in the cache of versions."""
    return sorted(path.name for path in (cache / "weights").iterdir())


def shard(manifest: Manifest, number: int = 1) -> str:
    return f"weights/{manifest.version}/{manifest.shards[number].file}"


def test_a_version_is_fetched_whole_and_verified(kind: Kind, tmp_path: Path) -> None:
    manifest = published(kind, tmp_path / "run")
    versions = Versions(kind.read, tmp_path / "cache")
    with versions.local(manifest) as local:
        assert [path.read_bytes() for path in verify(local)] == [content + b"1" for content in CONTENTS]
    assert versions.manifest(manifest.version).digest == manifest.digest


def test_a_damaged_byte_is_noticed_and_not_kept(kind: Kind, tmp_path: Path) -> None:
    manifest = published(kind, tmp_path / "run")
    good = CONTENTS[1] + b"1"
    kind.damage(shard(manifest), good[:-3] + b"?" + good[-2:])
    versions = Versions(kind.read, tmp_path / "cache")
    with pytest.raises(StorageError, match="has another digest"), versions.local(manifest):
        pass
    assert copies(tmp_path / "cache") == [f"{file_name(manifest.digest)}.part"]
    kind.damage(shard(manifest), good)
    with versions.local(manifest) as local:
        assert verify(local)


def test_a_truncated_file_is_noticed(kind: Kind, tmp_path: Path) -> None:
    manifest = published(kind, tmp_path / "run")
    kind.damage(shard(manifest), CONTENTS[1][:100])
    with (
        pytest.raises(StorageError, match="another size: 100 bytes instead of 232 bytes"),
        Versions(kind.read, tmp_path / "cache").local(manifest),
    ):
        pass


def test_a_vanished_file_is_named(kind: Kind, tmp_path: Path) -> None:
    manifest = published(kind, tmp_path / "run")
    kind.damage(shard(manifest), None)
    versions = Versions(kind.read, tmp_path / "cache")
    with pytest.raises(StorageError) as caught, versions.local(manifest):
        pass
    assert manifest.shards[1].file in caught.value.what
    with pytest.raises(StorageError, match=r"manifest\.json"):
        versions.manifest(manifest.version + 1)


def test_what_came_before_an_interruption_is_not_fetched_again(kind: Kind, tmp_path: Path) -> None:
    manifest = published(kind, tmp_path / "run")
    read = Elsewhere(kind.read)
    versions, asked = Versions(read, tmp_path / "cache"), iter(range(4))
    with pytest.raises(FetchStopped), versions.local(manifest, lambda: next(asked) == 3):
        pass
    assert read.read_bytes == 300
    with versions.local(manifest) as local:
        assert verify(local)
    size = sum(each.size_bytes for each in (*manifest.shards, manifest.tensors, manifest.canary) if each)
    assert read.read_bytes == size


def test_two_that_want_a_version_fetch_it_once(kind: Kind, tmp_path: Path) -> None:
    manifest = published(kind, tmp_path / "run")
    read, first_reads, may_go_on = Elsewhere(kind.read), threading.Event(), threading.Event()

    def hold(start: int) -> None:
        first_reads.set()
        assert may_go_on.wait(60)

    read.before_read = hold

    def load() -> list[bytes]:
        with Versions(read, tmp_path / "cache").local(manifest) as local:
            return [path.read_bytes() for path in verify(local)]

    with ThreadPoolExecutor(2) as threads:
        one = threads.submit(load)
        assert first_reads.wait(60)
        two = threads.submit(load)
        may_go_on.set()
        assert one.result() == two.result()
    size = sum(each.size_bytes for each in (*manifest.shards, manifest.tensors, manifest.canary) if each)
    assert read.read_bytes == size


def test_the_newest_versions_are_kept_and_what_is_in_use(kind: Kind, tmp_path: Path) -> None:
    manifests = [published(kind, tmp_path / "run", batch) for batch in range(1, KEEP + 3)]
    versions = Versions(kind.read, tmp_path / "cache")
    with versions.local(manifests[0]) as used:
        for manifest in manifests[1:]:
            with versions.local(manifest):
                pass
        assert verify(used)
    kept = {file_name(manifests[0].digest), *(file_name(manifest.digest) for manifest in manifests[-KEEP:])}
    assert kept == set(copies(tmp_path / "cache"))


def test_the_publisher_withdraws_what_nobody_uses(kind: Kind, tmp_path: Path) -> None:
    manifests = [published(kind, tmp_path / "run", batch) for batch in (1, 2, 3)]
    withdraw(kind.write, {manifests[0].version, manifests[2].version})
    there = {int(name.split("/")[1]) for name in kind.write.names("weights")}
    assert there == {manifests[0].version, manifests[2].version}


def test_where_nothing_can_be_put_the_url_says_so(tmp_path: Path, kind: Kind) -> None:
    manifest = make_version(tmp_path / "run")
    for depot in (kind.write, kind.read):
        if is_read_only(depot.url):
            with pytest.raises(StorageError, match="is read only"):
                publish(depot, manifest)
        else:
            publish(depot, manifest)
            assert f"weights/{manifest.version}/manifest.json" in depot.names("weights")


@pytest.mark.parametrize("url", ["http://host", "HTTP://host", "https://host", "HTTPS://host"])
def test_http_is_read_only_however_it_is_written(url: str) -> None:
    assert is_read_only(url)
    with pytest.raises(StorageError, match="is read only"):
        open_depot(url).names("weights")


def test_a_folder_of_this_machine_is_used_where_it_lies(tmp_path: Path) -> None:
    manifest = make_version(tmp_path)
    publish(open_depot(str(tmp_path)), manifest)
    with Versions(open_depot(f"file://{tmp_path}"), tmp_path / "cache").local(manifest) as local:
        assert local.folder == manifest.folder
    assert not (tmp_path / "cache").exists()


def test_a_depot_that_does_not_answer_and_one_that_refuses_are_told_apart(tmp_path: Path, kind: Kind) -> None:
    manifest = published(kind, tmp_path / "run")
    if kind.read.url.startswith("http"):
        with pytest.raises(AccessError, match="401"):
            open_depot(kind.read.url, Access("another")).read(shard(manifest), 0, 1)
    with pytest.raises(UnreachableError, match="does not answer"):
        open_depot("http://127.0.0.1:9").read("bundle/a.tar", 0, 1)


@pytest.mark.parametrize(
    "url", ["ftp://host/x", "s3://key:secret@bucket/x", "https://host/x?token=secret", "http://key:secret@[host"]
)
def test_a_url_that_cannot_be_a_depots_is_refused_without_its_secrets(url: str) -> None:
    with pytest.raises(ConfigError) as caught:
        open_depot(url)
    assert "secret" not in str(caught.value)


@pytest.mark.parametrize("name", ["weights/../run.json", "run.json", "weights/1/../../x", "bundle/../x", "/etc/passwd"])
def test_a_name_does_not_lead_out_of_a_depot(tmp_path: Path, name: str) -> None:
    with pytest.raises(InternalError):
        open_depot(str(tmp_path)).read(name, 0, 1)

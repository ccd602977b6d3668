"""A bundle holds what was named, in bytes that depend on nothing else, and unpacks to files in one folder alone."""

import io
import tarfile
from collections.abc import Callable
from pathlib import Path

import pytest

from isentrope.errors import StorageError
from isentrope.rollout.depot.bundle import bundle_name, fetch_bundle, may_hold_secrets, pack, unpack
from isentrope.rollout.depot.folder_depot import FolderDepot
from isentrope.rollout.wire.spec import Bundle


def test_a_bundle_comes_back_as_it_was_packed(tmp_path: Path) -> None:
    (tmp_path / "a").write_bytes(b"one")
    (tmp_path / "b").write_bytes(b"two")
    files = {"run/rewards.py": tmp_path / "a", "model/config.json": tmp_path / "b"}
    tar, digest = pack(files, tmp_path / "bundle")
    assert tar == tmp_path / bundle_name(digest)
    fetch_bundle(FolderDepot(tmp_path), Bundle(digest=digest, size_bytes=tar.stat().st_size), tmp_path / "x")
    there = {str(path.relative_to(tmp_path / "x")): path.read_bytes() for path in (tmp_path / "x").rglob("*.*")}
    assert there == {"run/rewards.py": b"one", "model/config.json": b"two"}


def test_equal_files_make_equal_bundles_and_the_last_one_stays(tmp_path: Path) -> None:
    digests = []
    for number, content in enumerate((b"one", b"one", b"two")):
        path = tmp_path / str(number)
        path.write_bytes(content)
        path.chmod(0o600 + 0o100 * number)
        digests.append(pack({"run/a": path}, tmp_path / "bundle")[1])
    assert digests[0] == digests[1] != digests[2]
    assert list((tmp_path / "bundle").iterdir()) == [tmp_path / bundle_name(digests[2])]


def member(name: str, kind: bytes = tarfile.REGTYPE, link: str = "") -> tarfile.TarInfo:
    info = tarfile.TarInfo(name)
    info.type, info.linkname = kind, link
    return info


@pytest.mark.parametrize(
    "evil",
    [
        member("../out"),
        member("run/../../out"),
        member("/tmp/out"),
        member("run/link", tarfile.SYMTYPE, "/etc/passwd"),
        member("run/link", tarfile.LNKTYPE, "../../out"),
        member("run/device", tarfile.CHRTYPE),
        member("run/device", tarfile.BLKTYPE),
        member("run/pipe", tarfile.FIFOTYPE),
    ],
    ids=lambda info: f"{info.name}-{info.type.decode()}",
)
def test_what_is_neither_a_file_nor_inside_is_refused(tmp_path: Path, evil: tarfile.TarInfo) -> None:
    with tarfile.open(tmp_path / "evil.tar", "w") as tar:
        tar.addfile(evil, io.BytesIO())
    folder = tmp_path / "in" / "x"
    folder.mkdir(parents=True)
    if evil.name.startswith("/"):
        unpack(tmp_path / "evil.tar", folder)  # as every tar does, without the slash
    else:
        with pytest.raises(StorageError):
            unpack(tmp_path / "evil.tar", folder)
    assert {path.name for path in (tmp_path / "in").iterdir()} == {"x"}
    assert not (tmp_path / "out").exists()


@pytest.mark.parametrize("change", [lambda raw: raw[:700], lambda raw: b"x" * 5000])
def test_a_damaged_tar_is_refused(tmp_path: Path, change: Callable[[bytes], bytes]) -> None:
    (tmp_path / "a").write_bytes(b"one" * 1000)
    tar, _ = pack({"run/a": tmp_path / "a"}, tmp_path / "bundle")
    tar.write_bytes(change(tar.read_bytes()))
    with pytest.raises(StorageError):
        unpack(tar, tmp_path / "x")


def test_another_bundle_than_the_specs_is_refused(tmp_path: Path) -> None:
    (tmp_path / "a").write_bytes(b"one")
    tar, digest = pack({"run/a": tmp_path / "a"}, tmp_path / "bundle")
    raw = bytearray(tar.read_bytes())
    raw[512] ^= 1
    tar.write_bytes(raw)
    with pytest.raises(StorageError, match="another digest"):
        fetch_bundle(FolderDepot(tmp_path), Bundle(digest=digest, size_bytes=len(raw)), tmp_path / "x")
    assert not (tmp_path / "x" / "run").exists()


@pytest.mark.parametrize(
    ("name", "secret"), [(".env", True), ("a/.ssh/b", True), ("key.pem", True), ("rewards.py", False)]
)
def test_names_of_credentials_are_known(name: str, secret: bool) -> None:
    assert may_hold_secrets(Path(name)) is secret

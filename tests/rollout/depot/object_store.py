"""Object stores in a process of this test's own: S3 by moto, Google Cloud Storage by its emulator."""

import contextlib
import uuid
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest
from depot_kinds import Kind

from isentrope.rollout.depot.interface import open_depot

WHERE = "`make test-stores` runs it, in an environment of its own"


@contextlib.contextmanager
def s3_kind(root: Path) -> Iterator[Kind]:
    """S3, by moto; skipped without it."""
    server_module = pytest.importorskip("moto.server", reason=WHERE)
    s3fs = pytest.importorskip("s3fs", reason=WHERE)
    server = server_module.ThreadedMotoServer("127.0.0.1", 0)
    server.start()
    host, port = server.get_host_and_port()
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("AWS_ENDPOINT_URL", f"http://{host}:{port}")
        patch.setenv("AWS_ACCESS_KEY_ID", "key")
        patch.setenv("AWS_SECRET_ACCESS_KEY", "secret")
        patch.setenv("AWS_DEFAULT_REGION", "us-east-1")
        s3fs.S3FileSystem.clear_instance_cache()
        yield _kind("s3", s3fs.S3FileSystem(), root)
    server.stop()


@contextlib.contextmanager
def gs_kind(root: Path) -> Iterator[Kind]:
    """Google Cloud Storage, by its emulator; skipped without it."""
    emulator = pytest.importorskip("gcp_storage_emulator.server", reason=WHERE)
    server = emulator.create_server("127.0.0.1", 0, in_memory=True)
    server.start()
    port = server._api._httpd.server_port
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("STORAGE_EMULATOR_HOST", f"http://127.0.0.1:{port}")
        patch.setenv("GCSFS_EXPERIMENTAL_ZB_HNS_SUPPORT", "false")  # read at its import: it asks by gRPC, over TLS
        gcsfs = pytest.importorskip("gcsfs", reason=WHERE)
        fsspec = pytest.importorskip("fsspec")
        patch.setitem(fsspec.config.conf, "gs", {"token": "anon"})
        gcsfs.GCSFileSystem.clear_instance_cache()
        yield _kind("gs", fsspec.filesystem("gs"), root)
    server.stop()


def _kind(scheme: str, files: Any, root: Path) -> Kind:
    bucket = f"bucket-{uuid.uuid4().hex}"  # the buckets of one process are shared by its servers
    files.mkdir(bucket)
    depot = open_depot(f"{scheme}://{bucket}/{root.name}")

    def change(name: str, content: bytes | None) -> None:
        place = f"{bucket}/{root.name}/{name}"
        files.rm_file(place) if content is None else files.pipe_file(place, content)

    return Kind(depot, depot, change)


STORES: dict[str, Callable[[Path], contextlib.AbstractContextManager[Kind]]] = {"s3": s3_kind, "gs": gs_kind}

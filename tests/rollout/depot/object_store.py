"""An S3 server in a process of this test's own."""

import contextlib
import uuid
from collections.abc import Iterator
from pathlib import Path

import pytest
from depot_kinds import Kind

from isentrope.rollout.depot.interface import open_depot


@contextlib.contextmanager
def s3_kind(root: Path) -> Iterator[Kind]:
    """An object store, by moto; skipped without it."""
    server_module = pytest.importorskip("moto.server", reason="the object store of the tests is moto's")
    s3fs = pytest.importorskip("s3fs", reason="object stores need the extra s3")
    server = server_module.ThreadedMotoServer("127.0.0.1", 0)
    server.start()
    host, port = server.get_host_and_port()
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("AWS_ENDPOINT_URL", f"http://{host}:{port}")
        patch.setenv("AWS_ACCESS_KEY_ID", "key")
        patch.setenv("AWS_SECRET_ACCESS_KEY", "secret")
        patch.setenv("AWS_DEFAULT_REGION", "us-east-1")
        s3fs.S3FileSystem.clear_instance_cache()
        files = s3fs.S3FileSystem()
        bucket = f"bucket-{uuid.uuid4().hex}"  # the buckets of one process are shared by its servers
        files.mkdir(bucket)
        depot = open_depot(f"s3://{bucket}/{root.name}")

        def change(name: str, content: bytes | None) -> None:
            place = f"{bucket}/{root.name}/{name}"
            files.rm_file(place) if content is None else files.pipe_file(place, content)

        yield Kind(depot, depot, change)
    server.stop()

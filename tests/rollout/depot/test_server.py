"""The server answers requests for published files, and nothing else."""

import http.client
import shutil
import subprocess
from collections.abc import Iterator
from pathlib import Path
from urllib.parse import urlsplit

import pytest
from depot_kinds import CONTENTS, TOKEN, make_version

from isentrope.errors import AccessError, ConfigError, UnreachableError
from isentrope.rollout.depot.access import Access
from isentrope.rollout.depot.interface import open_depot
from isentrope.rollout.depot.server import Address, DepotServer, token_of

AUTHORIZED = {"Authorization": f"Bearer {TOKEN}"}


@pytest.fixture
def server(tmp_path: Path) -> Iterator[DepotServer]:
    (tmp_path / "run").mkdir()
    make_version(tmp_path / "run")
    (tmp_path / "run" / "run.json").write_text("private")
    (tmp_path / "secret").write_text("private")
    with DepotServer(tmp_path / "run", Address("127.0.0.1", 0), TOKEN) as server:
        yield server


def ask(server: DepotServer, path: str, method: str = "GET", **headers: str) -> tuple[int, bytes]:
    """The answer to a path that is sent as it is."""
    connection = http.client.HTTPConnection("127.0.0.1", server.port, timeout=60)
    connection.request(method, path, headers=AUTHORIZED | headers)
    answer = connection.getresponse()
    content = answer.read()
    connection.close()
    return answer.status, content


def name_of(tmp_path: Path) -> str:
    (folder,) = (tmp_path / "run" / "weights").iterdir()
    return f"weights/{folder.name}/weights-00000.safetensors"


def test_a_file_is_served_whole_and_in_ranges(server: DepotServer, tmp_path: Path) -> None:
    path, content = f"/{name_of(tmp_path)}", CONTENTS[0] + b"1"
    assert ask(server, path) == (200, content)
    assert ask(server, path, Range="bytes=7-19") == (206, content[7:20])
    assert ask(server, path, Range=f"bytes={len(content)}-")[0] == 416


@pytest.mark.parametrize(
    "path",
    [
        "/",
        "/weights",
        "/weights/",
        "/weights/1/",
        "/bundle/",
        "/run.json",
        "/weights/../run.json",
        "/weights/%2e%2e/run.json",
        "/weights/1/..%2f..%2f..%2fsecret",
        "/bundle/..%2f..%2fsecret",
        "//etc/passwd",
        "/bundle/%00",
    ],
)
def test_nothing_but_published_files_is_there(server: DepotServer, path: str) -> None:
    status, content = ask(server, path)
    assert status in (400, 404) and b"private" not in content


def test_a_link_that_leads_out_is_not_followed(server: DepotServer, tmp_path: Path) -> None:
    (tmp_path / "run" / "bundle").mkdir()
    (tmp_path / "run" / "bundle" / "a.tar").symlink_to(tmp_path / "secret")
    assert ask(server, "/bundle/a.tar")[0] == 404


@pytest.mark.parametrize("method", ["PUT", "POST", "DELETE", "PATCH", "OPTIONS"])
def test_nothing_can_be_written(server: DepotServer, tmp_path: Path, method: str) -> None:
    before = sorted((tmp_path / "run").rglob("*"))
    assert ask(server, f"/{name_of(tmp_path)}", method)[0] == 405
    assert sorted((tmp_path / "run").rglob("*")) == before


@pytest.mark.parametrize("authorization", ["", "Bearer ", "Bearer another", f"Basic {TOKEN}", TOKEN, "Bearer \xff"])
def test_without_the_token_nothing_is_told(server: DepotServer, tmp_path: Path, authorization: str) -> None:
    for path in (f"/{name_of(tmp_path)}", "/bundle/none.tar"):
        assert ask(server, path, Authorization=authorization)[0] == 401


@pytest.fixture
def certificate(tmp_path: Path) -> Path:
    """A certificate that is its own authority, with its key."""
    if shutil.which("openssl") is None:
        pytest.skip("certificates need openssl")
    kind = ("req", "-x509", "-newkey", "ec", "-pkeyopt", "ec_paramgen_curve:prime256v1", "-nodes", "-days", "2")
    whose = ("-subj", "/CN=test", "-addext", "subjectAltName=IP:127.0.0.1")
    files = ("-keyout", str(tmp_path / "key.pem"), "-out", str(tmp_path / "tls.pem"))
    subprocess.run(["openssl", *kind, *whose, *files], check=True, capture_output=True)
    return tmp_path / "tls.pem"


def test_a_certificate_is_trusted_if_its_authority_is_known(tmp_path: Path, certificate: Path) -> None:
    make_version(tmp_path / "run")
    address = Address("127.0.0.1", 0, str(certificate), str(tmp_path / "key.pem"))
    with DepotServer(tmp_path / "run", address, TOKEN) as server:
        name, elsewhere = name_of(tmp_path), server.url.replace("127.0.0.1", "localhost")
        assert open_depot(server.url, Access(TOKEN, str(certificate))).read(name, 0, 5) == CONTENTS[0][:5]
        for url, access in ((server.url, Access(TOKEN)), (elsewhere, Access(TOKEN, str(certificate)))):
            with pytest.raises(AccessError, match="certificate of the depot is not trusted") as caught:
                open_depot(url, access).read(name, 0, 5)
            assert caught.value.exit_code == 77 and "--ca" in caught.value.fix


def test_an_address_that_is_taken_is_told(server: DepotServer, tmp_path: Path) -> None:
    with pytest.raises(UnreachableError, match=f"cannot listen at 127.0.0.1:{server.port}"):
        DepotServer(tmp_path, Address("127.0.0.1", server.port), "").__enter__()


@pytest.mark.parametrize("text", ["", "8800", ":8800", "host:", "host:port", "host:70000"])
def test_an_address_of_another_form_is_refused(text: str) -> None:
    with pytest.raises(ConfigError, match="is not ADDR:PORT"):
        Address.parse(text)


def test_a_token_depends_on_password_and_run_and_shows_neither() -> None:
    tokens = {token_of(password, run) for password in ("p", "q") for run in ("a", "b")}
    assert len(tokens) == 4 and all(len(token) == 64 for token in tokens)
    assert token_of("", "a") == ""


def test_the_url_is_that_of_the_address(server: DepotServer) -> None:
    assert urlsplit(server.url).port == server.port

"""The broker's files: a server starts on them, and their users are those of the protocol."""

import contextlib
import shlex
import shutil
import subprocess
from collections.abc import Iterator
from pathlib import Path

import pytest
import redis
from deploy_files import DEPLOY, checked
from redis.backoff import NoBackoff
from redis.exceptions import NoPermissionError
from redis.retry import Retry
from servers import redis_7
from waits import DEADLINE_S, wait_until
from whole_commands import free_port

from isentrope.broker_url import complete
from isentrope.errors import AccessError, UnreachableError
from isentrope.redis_server import find_binary
from isentrope.rollout.broker import access
from isentrope.rollout.broker.access import Role
from isentrope.rollout.broker.connection import Broker

FOLDER = DEPLOY / "redis"
RUN = "mine"
ROLES = sorted(Role)


@pytest.fixture(scope="module")
def private(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Folder of passwords and rules."""
    folder = tmp_path_factory.mktemp("broker")
    subprocess.run([FOLDER / "make-acl.sh", RUN, folder], check=True)
    return folder


@pytest.fixture(scope="module")
def socket(private: Path) -> Iterator[Path]:
    """Socket of a server that was started on the files."""
    socket = private / "redis.sock"
    options = ["--dir", private, "--aclfile", private / "users.acl", "--port", "0", "--unixsocket", socket]
    command = [find_binary(), FOLDER / "redis.conf", *options, "--logfile", private / "log"]
    server = subprocess.Popen([str(each) for each in command], stdout=subprocess.DEVNULL)
    try:
        wait_until(lambda: socket.exists() or server.poll() is not None, "no socket")
        assert server.poll() is None, (private / "log").read_text()
        yield socket
    finally:
        server.terminate()
        server.wait(30)


def _client(socket: Path, user: str | None, password: str | None) -> redis.Redis:
    at_once = Retry(NoBackoff(), 0)
    return redis.Redis(
        unix_socket_path=str(socket), username=user, password=password, protocol=2, decode_responses=True, retry=at_once
    )


def test_the_users_are_those_of_the_table() -> None:
    assert (FOLDER / "users.acl").read_text() == access.template(), "run make docs"


@pytest.mark.parametrize("name", ROLES)
def test_each_user_enters_by_the_password_of_its_file(private: Path, socket: Path, name: Role) -> None:
    client = _client(socket, name, (private / f"{name}.password").read_text())
    assert client.info("server")["run_id"]
    with pytest.raises(NoPermissionError):
        client.config_get("*")
    with pytest.raises(NoPermissionError):
        client.get("{another}:meta")


@pytest.mark.parametrize(
    ("user", "password"), [(None, None), ("default", ""), ("learner", "wrong"), (None, "wrong")], ids=str
)
def test_nobody_else_enters(socket: Path, user: str | None, password: str | None) -> None:
    with pytest.raises(redis.RedisError, match=r"invalid username|Authentication required"):
        _client(socket, user, password).get(f"{{{RUN}}}:meta")


def test_a_probe_may_ask_whether_it_lives_and_nothing_else(socket: Path) -> None:
    client = _client(socket, "health", "x")
    assert client.ping()
    with pytest.raises(NoPermissionError):
        client.get(f"{{{RUN}}}:meta")


def test_the_server_meets_the_demands_of_a_run(socket: Path) -> None:
    info = _client(socket, "learner", (socket.parent / "learner.password").read_text()).info()
    assert (info["maxmemory_policy"], info["aof_enabled"], info["maxmemory"]) == ("noeviction", 1, 12 << 30)


def test_a_small_limit_of_open_files_lowers_the_clients_and_is_told(private: Path, tmp_path: Path) -> None:
    options = ["--dir", tmp_path, "--aclfile", private / "users.acl", "--port", "0", "--unixsocket", tmp_path / "s"]
    command = shlex.join(map(str, [find_binary(), FOLDER / "redis.conf", *options, "--logfile", tmp_path / "log"]))
    server = subprocess.Popen(["sh", "-c", f"ulimit -n 1024; exec {command}"])
    try:
        wait_until(lambda: (tmp_path / "s").exists() or server.poll() is not None, "no socket")
        assert "maximum open files" in (tmp_path / "log").read_text()
    finally:
        server.terminate()
        server.wait(30)


def test_passwords_stay_and_are_read_by_their_owner_alone(private: Path) -> None:
    before = {path.name: path.read_text() for path in private.glob("*.password")}
    subprocess.run([FOLDER / "make-acl.sh", RUN, private], check=True)
    assert before == {path.name: path.read_text() for path in private.glob("*.password")}
    assert {path.stat().st_mode & 0o777 for path in private.glob("*.password")} == {0o600}
    assert len(set(before.values())) == len(before) == 5
    rules = (private / "users.acl").read_text()
    assert not any(secret in rules for secret in before.values()) and "PASSWORD" not in rules and "RUN" not in rules


@pytest.mark.parametrize("name", ["", "Mine", "a*", "-a", "a b"])
def test_a_name_that_no_run_has_is_refused(tmp_path: Path, name: str) -> None:
    ended = subprocess.run([FOLDER / "make-acl.sh", name, tmp_path / "new"], capture_output=True, text=True)
    assert ended.returncode != 0 and "make-acl.sh: " in ended.stderr and not (tmp_path / "new").exists()


def test_the_tls_variant_differs_in_its_ports_alone(tmp_path: Path) -> None:
    """The bundled server is built without TLS, and says of which directive it knows nothing."""
    text = (FOLDER / "redis-tls.conf").read_text()
    names = [line.split()[0] for line in text.splitlines() if line and line[0] != "#"]
    assert names[:2] == ["include", "port"] and all(name.startswith("tls-") for name in names[2:])
    ended = subprocess.run(
        [find_binary(), FOLDER / "redis-tls.conf", "--dir", tmp_path], cwd=DEPLOY.parent, capture_output=True, text=True
    )
    assert ended.returncode != 0
    assert "tls-" in ended.stdout + ended.stderr


@pytest.fixture
def encrypted(private: Path, tmp_path: Path) -> Iterator[tuple[str, Path]]:
    """Address of a server on the TLS variant, and the file of its authority; the certificate's places are its own."""
    program = redis_7()
    if not program or shutil.which("openssl") is None:
        pytest.skip("a server with TLS is wanted, and openssl for its certificate")
    kind = ("req", "-x509", "-newkey", "ec", "-pkeyopt", "ec_paramgen_curve:prime256v1", "-nodes", "-days", "2")
    whose = ("-subj", "/CN=test", "-addext", "subjectAltName=IP:127.0.0.1")
    files = ("-keyout", str(tmp_path / "tls.key"), "-out", str(tmp_path / "tls.crt"))
    subprocess.run(["openssl", *kind, *whose, *files], check=True, capture_output=True)
    shutil.copy(tmp_path / "tls.crt", tmp_path / "ca.crt")
    text = (FOLDER / "redis-tls.conf").read_text().replace("/etc/isentrope/tls/", f"{tmp_path}/")
    (tmp_path / "redis-tls.conf").write_text(text)
    port = str(free_port())
    options = ["--dir", tmp_path, "--aclfile", private / "users.acl", "--tls-port", port, "--bind", "127.0.0.1"]
    command = [program, tmp_path / "redis-tls.conf", *options, "--logfile", tmp_path / "log"]
    server = subprocess.Popen([str(each) for each in command], cwd=DEPLOY.parent)
    try:
        wait_until(lambda: server.poll() is not None or "Ready to accept" in _text(tmp_path / "log"), "no server")
        assert server.poll() is None, (tmp_path / "log").read_text()
        yield f"127.0.0.1:{port}", tmp_path / "ca.crt"
    finally:
        server.terminate()
        server.wait(30)


def _text(path: Path) -> str:
    return path.read_text() if path.exists() else ""


def test_the_tls_variant_serves_who_knows_its_authority_and_has_a_password(
    encrypted: tuple[str, Path], private: Path
) -> None:
    address, authority = encrypted

    def enter(scheme: str, ca_file: str) -> None:
        url = complete(f"{scheme}://actor@{address}", str(private / "actor.password"), ca_file)
        with contextlib.closing(Broker.connect(url, RUN, deadline_s=DEADLINE_S if ca_file else 1.0)) as broker:
            assert broker.run(lambda client: client.get(broker.keys.ctl)) is None

    enter("rediss", str(authority))
    with pytest.raises(AccessError, match="TLS to the broker") as refused:
        enter("rediss", "")
    assert "redis.ca_file" in refused.value.fix
    with pytest.raises(UnreachableError):
        enter("redis", "")


def test_the_checker_of_shells_finds_nothing() -> None:
    """In no file: one call of it costs as much as ten files."""
    files = sorted(path for kind in ("*.sh", "*.sbatch") for path in DEPLOY.rglob(kind))
    found = checked("shellcheck", "-x", *files)
    assert files and (found.returncode, found.stdout) == (0, "")


def test_the_checker_of_shells_finds_a_planted_mistake(tmp_path: Path) -> None:
    text = (FOLDER / "make-acl.sh").read_text().replace('mkdir -p "$folder"', "mkdir -p $folder")
    (tmp_path / "make-acl.sh").write_text(text)
    assert "SC2086" in checked("shellcheck", tmp_path / "make-acl.sh").stdout

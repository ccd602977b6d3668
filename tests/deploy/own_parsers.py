"""What programs themselves say of a command line, up to where they would reach for a server."""

import re
import subprocess

from deploy_files import DEPLOY
from programs import program

NOWHERE = {
    "docker": (("--host", "unix:///nonexistent/docker.sock"), r"docker daemon"),
    "kubectl": (("--server", "http://127.0.0.1:1"), r"connection refused|was refused"),
}
"""Options of a program by which it finds no server, and what it then says: it has accepted everything before."""


def refused_by(words: list[str]) -> str:
    """Return what a program refuses of a command line; empty: it looked for its server. Skip the test without it."""
    name, *arguments = words
    options, away = NOWHERE[name]
    command = [program(name, "the test reads commands by its parser"), *options, *arguments]
    done = subprocess.run(command, cwd=DEPLOY.parent, capture_output=True, text=True, timeout=60)
    said = done.stdout + done.stderr
    return "" if re.search(away, said) else f"{words}: {done.returncode}: {said[-500:]}"

"""The place of a model: a folder of this machine, or an id of the Hugging Face Hub."""

import socket
from pathlib import Path

from isentrope.errors import ConfigError


def require_here(model: str, where: str = "model.path") -> None:
    """Raise ConfigError if `model` is the path of a folder that this machine does not have.

    Libraries would take it for an id of the Hub, and refuse its form.
    """
    if Path(model).is_absolute() and not Path(model).is_dir():
        raise ConfigError(
            f"no model folder {model} on {socket.gethostname()}",
            where=where,
            fix="copy it there, or share it at the same path",
        )

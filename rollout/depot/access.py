"""Credentials of a depot over HTTP."""

import ssl
from dataclasses import dataclass

from isentrope.errors import ConfigError


@dataclass(frozen=True, slots=True)
class Access:
    """Credentials of a depot over HTTP. token: sent as bearer token; empty: none. ca_file: certificate authorities
    that are trusted instead of the system's; empty: the system's."""

    token: str = ""
    ca_file: str = ""

    def __repr__(self) -> str:
        return f"Access(token={'***' if self.token else ''!r}, ca_file={self.ca_file!r})"

    def tls(self) -> ssl.SSLContext:
        """Return the settings of a TLS connection; ConfigError if the certificates cannot be read."""
        try:
            return ssl.create_default_context(cafile=self.ca_file or None)
        except (OSError, ssl.SSLError) as error:
            raise ConfigError(
                f"the certificates in {self.ca_file} cannot be read: {error}", fix="give a PEM file"
            ) from None

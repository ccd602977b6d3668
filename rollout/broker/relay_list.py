"""Machines that offer the versions that they have to others, as the broker lists them.

The list is a hint: whoever may write it can enter anything, so what a machine sends is verified by whoever fetches it.
"""

from isentrope.rollout.broker.connection import Broker

MAX_RELAYS = 128
"""Machines that are listed; those that come later fetch from them, and offer nothing."""

EXPIRES_S = 3600.0
"""Time after which a machine that has entered no version is not listed any more."""

KEPT = 2
"""Versions that a machine is listed with: as many as its cache keeps."""


class RelayList:
    """The list of one run."""

    def __init__(self, broker: Broker) -> None:
        self._broker = broker

    def enter(self, url: str, digest: str) -> list[str]:
        """List `url` with the version that has this digest, unless it is empty, and return the URLs that were listed
        with it earlier. Of all that enter a version the first gets none, and no two get each other."""
        found = self._broker.call("relay", url, digest, KEPT, MAX_RELAYS, int(EXPIRES_S))
        return [each.decode(errors="replace") for each in found]

    def withdraw(self, url: str) -> None:
        """Take `url` off the list."""
        self._broker.run(lambda client: client.hdel(self._broker.keys.relays, url))

"""systemd's readiness protocol: one datagram per fact, to the socket that $NOTIFY_SOCKET names."""

from __future__ import annotations

import os
import socket


class Notifier:
    """Tells systemd where this process stands; without systemd, nobody."""

    def __init__(self) -> None:
        self._address = os.environ.get("NOTIFY_SOCKET", "")
        usec = os.environ.get("WATCHDOG_USEC", "")
        self.watchdog_s = int(usec) / 2e6 if usec.isdigit() else 0.0  # half the limit

    def send(self, *facts: str) -> None:
        """Send facts such as "READY=1". A lost datagram is no reason to fail."""
        if not self._address:
            return
        address = "\0" + self._address[1:] if self._address[0] == "@" else self._address
        with socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM | socket.SOCK_NONBLOCK) as peer:
            try:
                peer.connect(address)
                peer.send("\n".join(facts).encode())
            except OSError:
                return

"""A model server that speaks TLS, with a certificate as a test wants it."""

from __future__ import annotations

import contextlib
import socket
import ssl
import tempfile
import threading
from datetime import datetime, timedelta

from autoscaler.nodes.pki import Authority


class TlsServer:
    """A model server that speaks TLS, in threads: one that is refused amid a handshake leaves nothing in the loop.

    Attributes:
        met: connections that it was tried with.
        served: requests that came over them.
    """

    def __init__(self, bundle: str) -> None:
        self.met = 0
        self.served = 0
        self._listener = socket.create_server(("127.0.0.1", 0))
        self._context = _context(bundle)
        self._open: set[socket.socket] = set()
        self.url = f"https://127.0.0.1:{self._listener.getsockname()[1]}"
        threading.Thread(target=self._accept, daemon=True).start()

    @classmethod
    def of(cls, authority: Authority, host_name: str, made: datetime) -> TlsServer:
        """One with a certificate of this name, made then and good for a week."""
        return cls(authority.issue(host_name, "127.0.0.1", made, timedelta(days=7)).reveal())

    def __enter__(self) -> TlsServer:
        return self

    def __exit__(self, *exc: object) -> None:
        self.stop()

    def stop(self) -> None:
        self._listener.shutdown(socket.SHUT_RDWR)
        self._listener.close()
        for one in tuple(self._open):
            with contextlib.suppress(OSError):
                one.shutdown(socket.SHUT_RDWR)

    def _accept(self) -> None:
        with contextlib.suppress(OSError):
            while True:
                one, _ = self._listener.accept()
                self._open.add(one)
                threading.Thread(target=self._serve, args=(one,), daemon=True).start()

    def _serve(self, one: socket.socket) -> None:
        self.met += 1
        try:
            with one, self._context.wrap_socket(one, server_side=True) as tls:
                while request := tls.recv(65536):
                    self.served += request.startswith(b"POST")
                    body = f'data: {{"by": "{self.url}"}}\n\ndata: [DONE]\n\n'.encode()
                    head = "HTTP/1.1 200 OK\r\nContent-Type: text/event-stream\r\nContent-Length: "
                    tls.sendall(f"{head}{len(body)}\r\n\r\n".encode() + body)
        except OSError:
            pass  # refused, or gone
        finally:
            self._open.discard(one)


def _context(bundle: str) -> ssl.SSLContext:
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    with tempfile.NamedTemporaryFile("w") as file:
        file.write(bundle)
        file.flush()
        context.load_cert_chain(file.name)
    return context

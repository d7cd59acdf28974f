"""The `[front]` table of config.toml: where clients come in, and who may.

Its own module, because two programs read it that know nothing of each other: the daemon's config holds it so that
`validate` finds its mistakes, and the gateway reads it alone, so that a mistake elsewhere in the file cannot keep it
from starting.
"""

from __future__ import annotations

from pathlib import Path
from typing import Annotated, Self

from pydantic import BeforeValidator, Field, model_validator

from autoscaler.form import Values
from autoscaler.quantity import Size

MIB = 1024 * 1024
_PATH = r"^/[A-Za-z0-9._/-]*$"


def parse_address(text: str) -> tuple[str, int]:
    """Read HOST:PORT, with an IPv6 host in brackets.

    Raises:
        ValueError: it is not of this form.
    """
    host, colon, port = text.rpartition(":")
    if not colon or not host or not port.isdecimal() or int(port) > 65535:
        raise ValueError(f"{text!r}: want HOST:PORT, such as 127.0.0.1:8080 or [::1]:8080")
    return host.strip("[]"), int(port)


def _addresses(given: object) -> object:
    return (given,) if isinstance(given, str) else given


class FrontSettings(Values):
    """The way in for clients, served by the gateway.

    Attributes:
        listen: HOST:PORT, one or several. Sockets that systemd opened are served instead.
        tls: a directory with certificate and key, or the certificate's file (which may hold the key too).
        tls_key: the key's file, when `tls` is a file without it.
        client_keys: a TOML file of client keys, or a directory of such files.
        behind_proxy: a proxy before it has TLS and checks clients, and nobody else reaches it.
        paths: what clients may POST to besides the paths of inference, such as an engine's own.
        max_body: a larger request body is answered 413.
        max_connections: clients connected at the same time.
    """

    listen: Annotated[tuple[str, ...], BeforeValidator(_addresses), Field(min_length=1)] = (
        "127.0.0.1:8080",
    )
    tls: Path | None = None
    tls_key: Path | None = None
    client_keys: Path | None = None
    behind_proxy: bool = False
    paths: Annotated[tuple[Annotated[str, Field(pattern=_PATH)], ...], Field(max_length=100)] = ()
    max_body: Annotated[Size, Field(ge=1024, le=1024 * MIB)] = 32 * MIB
    max_connections: Annotated[int, Field(ge=1, le=1_000_000)] = 10_000

    @model_validator(mode="after")
    def _fits(self) -> Self:
        for address in self.listen:
            try:
                parse_address(address)
            except ValueError as exc:
                raise ValueError(f"listen: {exc}") from exc
        if self.tls_key is not None and self.tls is None:
            raise ValueError("tls_key: names a key without a certificate; set tls too")
        return self

    def beside(self, folder: Path) -> Self:
        """The same with relative paths taken from `folder`."""
        found = {name: getattr(self, name) for name in ("tls", "tls_key", "client_keys")}
        return self.model_copy(
            update={name: path and folder / path for name, path in found.items()}
        )

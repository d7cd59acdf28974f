"""The configuration of HAProxy that we ship, made to run here: free ports, paths of its own, no root."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

from autoscaler.domain.ids import slug

SHIPPED = Path(__file__).parents[2] / "deploy" / "haproxy"
SOCKET = "haproxy.sock"  # its stats socket, in its folder
MASTER = "master.sock"
CONFIG = "haproxy.cfg"

Edit = tuple[str, str]  # text that must stand there, and what stands in its place
PATHS: Edit = ("/etc/haproxy/paths.lst", str(SHIPPED / "paths.lst"))


def shipped(
    folder: Path,
    *,
    front: int,
    metrics: int,
    activator: str,
    edits: Sequence[Edit] = (),
    template: str = "haproxy.cfg",
) -> str:
    """A shipped configuration for one run.

    Args:
        folder: of its sockets.
        front: the port for clients.
        metrics: the port of its exporter.
        activator: address and port of the gateway.
        edits: made first.
    """
    source = SHIPPED / template
    return edited(
        source.read_text(),
        *edits,
        ("/run/haproxy/autoscaler.sock mode 660 group haproxy", str(folder / SOCKET)),
        ("    user haproxy\n    group haproxy\n    log /dev/log local0\n", ""),
        ("    log global\n", ""),
        ("    option httplog\n", ""),
        ("bind :8080", f"bind 127.0.0.1:{front}"),
        ("bind 127.0.0.1:8404", f"bind 127.0.0.1:{metrics}"),
        ("127.0.0.1:8000", activator),
        PATHS,
        source=source,
    )


def edited(text: str, *edits: Edit, source: Path) -> str:
    """Text with its parts replaced; one that is not there is an error of the caller's."""
    for there, here in edits:
        assert there in text, f"{source} has no {there!r}"
        text = text.replace(there, here)
    return text


def write_for_models(
    folder: Path,
    models: Sequence[str],
    *,
    front: int,
    inner: int,
    metrics: int,
    http2: tuple[int, Path] | None = None,
) -> Path:
    """Write the shipped configuration with a backend for each of these models, all held by one gateway.

    Args:
        inner: the port of the gateway.
        http2: one more port for clients, who speak HTTP/2 there, and a PEM file with certificate and key.
    """
    more = f"    bind 127.0.0.1:{http2[0]} ssl crt {http2[1]} alpn h2\n" if http2 else ""
    table = folder / "models.map"
    table.write_text("".join(f"{model} {slug(model)}\n" for model in models))
    text = shipped(
        folder,
        front=front,
        metrics=metrics,
        activator=f"127.0.0.1:{inner}",
        edits=[
            ("/etc/haproxy/models.map", str(table)),
            ("    bind :8080\n", f"    bind :8080\n{more}"),
        ],
    )
    for model in models:
        text += (
            f"\nbackend {slug(model)}\n    server activator 127.0.0.1:{inner} backup\n"
            f"    server activator-spare 127.0.0.1:{inner} backup\n"
        )
    config = folder / CONFIG
    config.write_text(text)
    return config

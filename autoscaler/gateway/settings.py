"""What the gateway is told: once at its start (`GatewaySettings`), and per model by the daemon (`PoolSettings`)."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

MIB = 1024 * 1024


@dataclass(frozen=True, slots=True)
class WaitBounds:
    """How much may wait, and for how long; a request beyond any of the three is answered 503.

    Attributes:
        max_requests: requests that wait at the same time.
        max_bytes: their bodies together.
        max_wait_s: seconds from a request's arrival until it is given up.
    """

    max_requests: int
    max_bytes: int
    max_wait_s: float


@dataclass(frozen=True, slots=True)
class Affinity:
    """What keeps a session on one endpoint.

    Attributes:
        header: lower case; the header whose value is the key, where a request has it.
        prompt_chars: how much of the prompt's head is the key otherwise.
        bound: how much more than its share of what is in flight an endpoint may hold, above 1.
    """

    header: str | None = None
    prompt_chars: int = 1024
    bound: float = 1.25


@dataclass(frozen=True, slots=True)
class PoolSettings:
    """One model as its clients meet it.

    Attributes:
        model: the name that requests carry; what the engines serve it as.
        aliases: further names; a request by an alias is rewritten to `model`.
        hold: bounds while no endpoint is active (a boot takes minutes).
        queue: bounds while all active endpoints are full.
        retry_after_s: what a 503 tells the client while nothing better is known of when a node is ready.
        sse_comment_s: while a streaming request waits, a comment of the event stream each so many seconds; 0 for none.
        affinity: which endpoint a session prefers; None sends every request to the least loaded.
        max_model_len: tokens of a prompt and its answer together that its engines take; None: they say it.
        connect_timeout_s: seconds for the TCP connection to an endpoint.
        read_timeout_s: the longest silence of an endpoint, within or before an answer.
    """

    model: str
    aliases: tuple[str, ...] = ()
    hold: WaitBounds = WaitBounds(1000, 64 * MIB, 900.0)
    queue: WaitBounds = WaitBounds(1000, 64 * MIB, 60.0)
    retry_after_s: float = 30.0
    connect_timeout_s: float = 2.0
    read_timeout_s: float = 600.0
    max_model_len: int | None = None
    sse_comment_s: float = 0.0
    affinity: Affinity | None = None


@dataclass(frozen=True, slots=True)
class GatewaySettings:
    """How this process listens and what bounds it, whatever the models.

    Attributes:
        listen: (host, port) pairs for clients; port 0 takes a free one.
        tls: a directory with certificate and key, or a file; None serves plain HTTP.
        tls_key: the key's file, when `tls` is a file without it.
        client_keys: a file of client keys, or a directory of such files; None lets everybody ask.
        behind_proxy: a proxy before us has TLS and checks clients, so that a public address needs neither here.
        paths: what clients may POST to besides the paths of inference.
        control: path of the Unix socket that the daemon drives.
        state_file: where pools and endpoints outlive a restart; None keeps nothing.
        metrics: (host, port) of a page for Prometheus alone; None leaves it to the control socket.
        reuse_port: let a second gateway listen on the same port while this one finishes.
        take_over: relieve the gateway that serves at `control`, if there is one.
        max_body_bytes: a larger request body is answered 413.
        max_buffered_bytes: bodies of all requests under way together; one more is answered 503, and one of a key
            that has as much as is left already.
        max_connections: client connections; one more is answered 503 and closed.
        max_header_bytes: one header, or the request line.
        header_timeout_s: seconds for a whole request head, from the connection or its first byte.
        body_timeout_s: seconds for a whole request body.
        keepalive_s: seconds that an idle client connection is kept.
        write_timeout_s: seconds that a client may take none of a full buffer before it is cut.
        node_keepalive_s: seconds that an idle connection to a node is kept; below the 5 s of uvicorn,
            so that no request meets a connection that the node is closing.
        drain_timeout_s: after SIGTERM, seconds for running answers to end.
    """

    listen: tuple[tuple[str, int], ...] = (("127.0.0.1", 8080),)
    tls: Path | None = None
    tls_key: Path | None = None
    client_keys: Path | None = None
    behind_proxy: bool = False
    paths: tuple[str, ...] = ()
    control: Path = Path("/run/autoscaler/gateway.sock")
    state_file: Path | None = None
    metrics: tuple[str, int] | None = None
    reuse_port: bool = False
    take_over: bool = False
    max_body_bytes: int = 32 * MIB
    max_buffered_bytes: int = 1024 * MIB
    max_connections: int = 10_000
    max_header_bytes: int = 16 * 1024
    header_timeout_s: float = 10.0
    body_timeout_s: float = 60.0
    keepalive_s: float = 75.0
    write_timeout_s: float = 60.0
    node_keepalive_s: float = 4.0
    drain_timeout_s: float = 3600.0

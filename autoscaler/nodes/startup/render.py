"""Policy and offer in, startup script out. Pure but for the templates and a custom script, which it reads.

The templates are fixed text. What differs between nodes is a list of assignments at the top, each value quoted by
`quoting`; no template has a place for a value anywhere else.
"""

from __future__ import annotations

import base64
import hashlib
import re
from collections.abc import Mapping
from dataclasses import dataclass
from functools import cache
from pathlib import Path
from types import MappingProxyType

import jinja2

from autoscaler.config import Config
from autoscaler.domain.offer import Offer
from autoscaler.errors import ConfigError
from autoscaler.nodes.gpus import GPU_FIELDS
from autoscaler.nodes.startup.presets import ServerImage, server_image
from autoscaler.nodes.startup.quoting import quote, quote_all
from autoscaler.policy import Engine, Policy
from autoscaler.tls_engines import why_no_tls

SCRIPT_LIMIT = 64 * 1000  # the cloud's: under 64 kB
DOCKER_WITHIN_S = 120
LLAMA_CPP_SLOTS = 8  # each slot takes its share of the context's memory
_NONCE_DIGITS = 64
_TEMPLATES = {
    Engine.VLLM: "vllm.sh.j2",
    Engine.SGLANG: "sglang.sh.j2",
    Engine.LLAMA_CPP: "llama_cpp.sh.j2",
    Engine.EMBEDDING: "embedding.sh.j2",
    Engine.CUSTOM: "custom.sh.j2",
}


@dataclass(frozen=True, slots=True)
class StartupScript:
    """What one VM is created with.

    Attributes:
        text: the startup script, ASCII, under 64 kB.
        shutdown: the shutdown script.
        sha256: of `text`, in hex.
        ports: where its replicas serve, in order.
    """

    text: str
    shutdown: str
    sha256: str
    ports: tuple[int, ...]


def replicas_of(policy: Policy, offer: Offer) -> int:
    """How many model servers fit on a VM of this offer, at least one."""
    return max(1, offer.gpus // policy.hardware.tensor_parallel)


def render(
    policy: Policy,
    offer: Offer,
    *,
    nonce: str,
    replicas: int,
    config: Config,
    pins: Mapping[str, str] = MappingProxyType({}),
) -> StartupScript:
    """Write the scripts of one node.

    Args:
        nonce: 256 random bits as 64 hex digits, this node's alone.
        replicas: model servers to start; `replicas_of` says how many fit.
        pins: the digests that tags stood for when a node first pulled them.

    Raises:
        ConfigError: the policy cannot run on this offer, its script cannot be read, or the script
            would be larger than the cloud takes.
    """
    _check(policy, offer, nonce, replicas)
    why = why_no_tls(policy) if config.way == "tls" else None
    if why is not None:
        raise ConfigError(why)
    chosen = server_image(policy, offer, pins)
    values = _values(policy, offer, chosen, nonce=nonce, replicas=replicas, config=config)
    template = _environment().get_template(_TEMPLATES[policy.engine])
    armed = config.timings.deadman_after is not None
    used = set(re.findall(r"\b[A-Z][A-Z0-9_]+\b", template.render(values=[], armed=armed)))
    given = [(name, value) for name, value in values if name in used]
    text = template.render(values=given, armed=armed)
    if len(text.encode("ascii")) >= SCRIPT_LIMIT:
        raise ConfigError(
            f"the startup script of {policy.model} has {len(text)} bytes, the cloud takes less than "
            f"{SCRIPT_LIMIT}: shorten server.args, server.env or server.script"
        )
    shutdown = _environment().get_template("shutdown.sh.j2")
    return StartupScript(
        text=text,
        shutdown=shutdown.render(values=[("REPLICAS", str(replicas))]),
        sha256=hashlib.sha256(text.encode()).hexdigest(),
        ports=tuple(policy.server.port + index for index in range(replicas)),
    )


def _check(policy: Policy, offer: Offer, nonce: str, replicas: int) -> None:
    degree = policy.hardware.tensor_parallel
    if len(nonce) != _NONCE_DIGITS or not set(nonce) <= set("0123456789abcdef"):
        raise ValueError("a nonce is 64 lower-case hex digits")
    if replicas < 1:
        raise ValueError(f"replicas is {replicas}")
    if offer.gpus and replicas * degree > offer.gpus:
        raise ConfigError(
            f"{offer.key.type} has {offer.gpus} GPUs; {policy.model} needs {replicas * degree} for "
            f"{replicas} replicas with hardware.tensor_parallel = {degree}"
        )
    if policy.server.port + replicas - 1 > 65535:
        raise ConfigError(f"server.port {policy.server.port} leaves no room for {replicas} ports")


def _values(
    policy: Policy,
    offer: Offer,
    chosen: ServerImage,
    *,
    nonce: str,
    replicas: int,
    config: Config,
) -> list[tuple[str, str]]:
    """The assignments: names of ours, values quoted."""
    server, deadman = policy.server, config.timings.deadman_after
    texts = {
        "NONCE": nonce,
        "SSH_USER": config.ssh.user,
        "IMAGE": chosen.image or "",
        "MIN_DRIVER": chosen.min_driver,
        "WEIGHTS": server.weights or policy.model,
        "SERVED_NAME": policy.served_name,
        "HEALTH_PATH": server.health_path,
        "METRICS_PATH": server.metrics_path,
        "GPU_FIELDS": GPU_FIELDS,
    }
    numbers = {
        "GPUS": offer.gpus,
        "TENSOR_PARALLEL": policy.hardware.tensor_parallel,
        "REPLICAS": replicas,
        "PORT": server.port,
        "MAX_NUM_SEQS": _slots(policy),
        "MAX_MODEL_LEN": server.max_model_len or 0,
        "WANTS_TOKEN": int(server.token_file is not None),
        "WANTS_TLS": int(config.way == "tls"),
        "DEADMAN_S": _seconds(deadman.total_seconds()) if deadman is not None else 0,
        "DOCKER_WITHIN_S": min(DOCKER_WITHIN_S, _seconds(policy.deadlines.pull.total_seconds())),
        "TOKEN_WITHIN_S": _seconds(policy.deadlines.token.total_seconds()),
        "PULL_WITHIN_S": _seconds(policy.deadlines.pull.total_seconds()),
        "HEALTH_WITHIN_S": _seconds(policy.deadlines.health.total_seconds()),
    }
    lists = {
        "CHOICES": [f"{p.min_driver} preset {p.name} ({image})" for p, image in chosen.choices],
        "SERVER_ARGS": list(server.args),
        "SERVER_ENV": [f"{name}={value}" for name, value in sorted(server.env.items())],
    }
    if policy.engine is Engine.CUSTOM:
        texts["SCRIPT_BASE64"] = base64.b64encode(_custom_script(policy)).decode("ascii")
    return [
        *((name, quote(text)) for name, text in texts.items()),
        *((name, str(number)) for name, number in numbers.items()),
        *((name, quote_all(words)) for name, words in lists.items()),
    ]


def _slots(policy: Policy) -> int:
    server = policy.server
    if policy.engine is Engine.LLAMA_CPP and "max_num_seqs" not in server.model_fields_set:
        return LLAMA_CPP_SLOTS
    return server.max_num_seqs


def _seconds(length: float) -> int:
    return max(1, round(length))


def _custom_script(policy: Policy) -> bytes:
    path = Path(policy.server.script or "")
    try:
        return path.read_bytes()
    except OSError as exc:
        raise ConfigError(f"server.script: cannot read {path}: {exc.strerror}") from exc


@cache
def _environment() -> jinja2.Environment:
    return jinja2.Environment(
        loader=jinja2.PackageLoader("autoscaler.nodes.startup", "."),
        undefined=jinja2.StrictUndefined,
        autoescape=False,  # bash, not HTML: quoting.py is what escapes here
        trim_blocks=True,
        lstrip_blocks=True,
        keep_trailing_newline=True,
        # bash has meanings of its own for the usual {{ and {#
        block_start_string="<%",
        block_end_string="%>",
        variable_start_string="<{",
        variable_end_string="}>",
        comment_start_string="<#",
        comment_end_string="#>",
    )

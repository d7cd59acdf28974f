"""Command lines of the real servers, read into the settings of the emulated one.

`docker` puts its own facts before `--` and the image's arguments, as they are, after it. An argument
that means nothing to an emulated engine is passed over: real servers have hundreds.
"""

from __future__ import annotations

import argparse
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

DIALECTS = ("vllm", "sglang", "llama.cpp", "tei", "infinity")
DEFAULT_PORTS = {"vllm": 8000, "sglang": 30000, "llama.cpp": 8080, "tei": 80, "infinity": 7997}
DEFAULT_SLOTS = {"vllm": 256, "sglang": 256, "llama.cpp": 1, "tei": 512, "infinity": 32}
SYNONYMS = {
    "model": ("--model", "--model-path", "--model-id", "--hf-repo", "-hf", "-m"),
    "served": ("--served-model-name", "--alias", "-a"),
    "host": ("--host", "--hostname"),
    "port": ("--port", "-p"),
    "tensor_parallel": ("--tensor-parallel-size", "-tp", "--tp", "--tp-size"),
    "slots": (
        *("--max-num-seqs", "--max-running-requests", "-np", "--parallel", "--batch-size"),
        "--max-concurrent-requests",
    ),
    "context": ("--max-model-len", "--context-length", "-c", "--ctx-size"),
    "memory": ("--gpu-memory-utilization", "--mem-fraction-static"),
    "prefill": ("--max-num-batched-tokens", "--chunked-prefill-size", "--max-batch-tokens"),
    "api_key": ("--api-key",),
    "tls_key": ("--ssl-keyfile", "--ssl-key-file"),
    "tls_certificate": ("--ssl-certfile", "--ssl-cert-file"),
}
FIELDS = {option: name for name, options in SYNONYMS.items() for option in options}


@dataclass(frozen=True, slots=True)
class Settings:
    """One emulated engine.

    Attributes:
        port: where it listens on `address`; the published one, for a container of its own network.
        served_names: what /v1/models lists; the first labels the metrics.
        load_seconds: real seconds until it is healthy; None works them out from the model's size.
        time_factor: divides loading times only. Serving is as fast as the GPU, times `speed`.
        tls: certificate and key; None serves plain HTTP.
        models_directory: what has been fetched from the hub is marked here.
    """

    dialect: str
    address: str
    port: int
    model: str
    served_names: tuple[str, ...]
    gpu: str
    gpus: int
    tensor_parallel: int
    max_num_seqs: int
    max_model_len: int | None
    memory_utilization: float
    prefill_tokens: int
    api_key: str
    hub_token: str
    load_seconds: float | None
    time_factor: float
    speed: float
    events_per_second: float
    models_directory: Path | None
    faults: frozenset[str]
    has_metrics: bool
    metrics_generation: str
    is_real_llama_cpp: bool
    tls: tuple[Path, Path] | None = None


def parse(arguments: Sequence[str], environment: Mapping[str, str]) -> Settings:
    """Read a command line. argparse ends the process where its own part is wrong."""
    own_words, native_words = _split(arguments)
    own, unknown = _parser().parse_known_args(own_words)
    native, flags = _native([*unknown, *native_words])
    model = native.get("model") or environment.get("MODEL_ID") or "demo/chat-8b"
    dialect = "infinity" if own.dialect == "embedding" else own.dialect
    port = int(native.get("port") or environment.get("PORT") or DEFAULT_PORTS[dialect])
    slots = int(native.get("slots") or DEFAULT_SLOTS[dialect])
    context = int(native["context"]) if native.get("context") else None
    if dialect == "llama.cpp" and context:
        context //= slots
    return Settings(
        dialect=dialect,
        address=own.address or _bindable(native.get("host", "")),
        port=_published(own.published, port) if not own.host_network else port,
        model=model,
        served_names=tuple((native.get("served") or model).replace(",", " ").split()),
        gpu=own.gpu,
        gpus=own.gpus,
        tensor_parallel=int(native.get("tensor_parallel") or 1),
        max_num_seqs=slots,
        max_model_len=context,
        memory_utilization=float(native.get("memory") or 0.9),
        prefill_tokens=max(int(native.get("prefill") or 2048), 16),
        api_key=native.get("api_key") or _first(environment, _KEY_VARIABLES),
        hub_token=_hub_token(environment),
        load_seconds=own.load_seconds,
        time_factor=own.time_factor,
        speed=own.speed,
        events_per_second=own.events_per_second,
        models_directory=own.models_directory,
        faults=frozenset(own.fault),
        has_metrics=_has_metrics(dialect, flags),
        metrics_generation=own.vllm_metrics,
        is_real_llama_cpp=own.real_llama_cpp,
        tls=_tls(native),
    )


_KEY_VARIABLES = ("VLLM_API_KEY", "LLAMA_API_KEY", "INFINITY_API_KEY", "API_KEY")


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(
        prog="python -m autoscaler.emulator.engine",
        description="An emulated model server. Arguments of the real servers are taken as well.",
        allow_abbrev=False,
    )
    parser.add_argument("--dialect", choices=[*DIALECTS, "embedding"], default="vllm")
    parser.add_argument("--address", default="", help="where to listen, whatever --host says")
    parser.add_argument("--gpu", default="l40s", help="a profile of gpu_profiles.toml, or cpu")
    parser.add_argument("--gpus", type=int, default=1, help="how many it may use")
    parser.add_argument("--time-factor", type=float, default=1.0, help="divides loading times")
    parser.add_argument("--load-seconds", type=float, help="instead of the model's own time")
    parser.add_argument("--speed", type=float, default=1.0, help="serve so many times faster")
    parser.add_argument("--events-per-second", type=float, default=4.0, help="per request's stream")
    parser.add_argument("--events-per-second-per-request", type=float, dest="events_per_second")
    parser.add_argument("--models-directory", type=Path, help="marks what has been fetched")
    parser.add_argument("--published", action="append", default=[], help="HOST:CONTAINER port")
    parser.add_argument("--host-network", action="store_true")
    parser.add_argument("--fault", action="append", default=[])
    parser.add_argument("--vllm-metrics", choices=["v0", "v1"], default="v1")
    parser.add_argument("--real-llama-cpp", action="store_true")
    return parser


def _split(arguments: Sequence[str]) -> tuple[list[str], list[str]]:
    words = list(arguments)
    if "--" not in words:
        return words, []
    at = words.index("--")
    return words[:at], words[at + 1 :]


def _native(words: Sequence[str]) -> tuple[dict[str, str], set[str]]:
    """Part what we know from what we pass over; the first bare word is the model (`vllm serve M`)."""
    rest = [word for word in words if word not in ("serve", "vllm", "v2", "server")]
    if rest and rest[0].startswith("python"):
        rest = rest[3:]  # python3 -m MODULE
    elif rest[:1] == ["-m"] and len(rest) > 1 and "." in rest[1] and "/" not in rest[1]:
        rest = rest[2:]  # --entrypoint python3
    found: dict[str, str] = {}
    flags: set[str] = set()
    while rest:
        word = rest.pop(0)
        option, equals, value = word.partition("=")
        if not word.startswith("-"):
            found.setdefault("model", word)
            continue
        flags.add(option)
        if not equals and rest and not rest[0].startswith("-"):
            value = rest.pop(0)
        if option in FIELDS:
            found[FIELDS[option]] = value
    return found, flags


def _has_metrics(dialect: str, flags: set[str]) -> bool:
    match dialect:
        case "vllm":
            return "--disable-log-stats" not in flags
        case "sglang":
            return "--enable-metrics" in flags
        case "llama.cpp":
            return "--metrics" in flags
        case _:
            return True


def _published(pairs: Sequence[str], port: int) -> int:
    """The VM's port that leads to a container's port; one that nobody knows when there is none."""
    if not pairs:
        return port
    by_container = {int(inside): int(outside) for outside, inside in (p.split(":") for p in pairs)}
    return by_container.get(port, 0)


def _tls(native: Mapping[str, str]) -> tuple[Path, Path] | None:
    key, certificate = native.get("tls_key"), native.get("tls_certificate")
    return (Path(certificate), Path(key)) if key and certificate else None


def _bindable(host: str) -> str:
    return "127.0.0.1" if host in ("", "0.0.0.0", "::", "localhost") else host


def _first(environment: Mapping[str, str], names: Sequence[str]) -> str:
    return next((environment[name] for name in names if environment.get(name)), "")


def _hub_token(environment: Mapping[str, str]) -> str:
    token = _first(environment, ("HF_TOKEN", "HUGGING_FACE_HUB_TOKEN"))
    path = environment.get("HF_TOKEN_PATH")
    if token or not path:
        return token
    try:
        return Path(path).read_text().strip()
    except OSError:
        return ""

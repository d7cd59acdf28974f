"""`docker run` of an emulated VM: an image and its arguments become an emulated engine."""

from __future__ import annotations

import json
import os
import re
import secrets
import shlex
import shutil
import sys
import time
from collections.abc import Sequence
from pathlib import Path
from typing import NoReturn

from autoscaler.emulator.machines.containers import Container, DockerError, Host, say
from autoscaler.emulator.machines.docker_options import Options, parse

RUN_FLAGS = frozenset(
    {"-d", "--detach", "--rm", "-i", "-t", "-it", "-ti", "--init", "--privileged"}
)
RUN_VALUES = tuple(
    """
    --name --restart --gpus --network --net -p --publish -v --volume -e --env --env-file --ipc
    --shm-size --ulimit --runtime --device --entrypoint -w --workdir -u --user -l --label
    --log-driver --log-opt -m --memory --cpus --cpuset-cpus --pull --mount --add-host -h --hostname
    --stop-timeout --security-opt --cap-add --pid --tmpfs --health-cmd --health-interval
    --health-retries --health-start-period --health-timeout --stop-signal --platform
    --oom-score-adj
    """.split()  # noqa: SIM905 - one word a line would fill a page
)
TLS_FILES = frozenset({"--ssl-keyfile", "--ssl-certfile", "--ssl-key-file", "--ssl-cert-file"})
HF_CACHE = "/root/.cache/huggingface"


def claimed_gpus(host: Host, request: str) -> list[int]:
    """The devices that `--gpus` asks for.

    Raises:
        DockerError: the VM has no such GPUs.
    """
    if not request:
        return []
    wanted = request.strip("\"'")
    if host.gpus == 0:
        raise DockerError(
            'docker: Error response from daemon: could not select device driver "" with '
            "capabilities: [[gpu]].",
            125,
        )
    if wanted == "all":
        return list(range(host.gpus))
    if wanted.startswith("device="):
        devices = [int(device) for device in wanted.removeprefix("device=").split(",")]
    else:
        devices = list(range(int(wanted.removeprefix("count="))))
    if missing := [device for device in devices if device >= host.gpus]:
        raise DockerError(
            "docker: Error response from daemon: failed to create task for container: "
            f"nvidia-container-cli: device error: {missing[0]}: unknown device: unknown.",
            125,
        )
    return devices


def container_environment(options: Options) -> dict[str, str]:
    """What -e and --env-file give, later ones winning."""
    lines: list[str] = []
    for file in options.all("--env-file"):
        try:
            text = Path(file).read_text()
        except OSError as error:
            raise DockerError(f"docker: open {file}: {error.strerror}.", 125) from None
        lines += [line for line in text.splitlines() if line.strip() and line[0] != "#"]
    environment = {}
    for line in [*lines, *options.all("-e", "--env")]:
        key, equals, value = line.partition("=")
        if equals:
            environment[key] = value
        elif key in os.environ:
            environment[key] = os.environ[key]
    return environment


def mounted(options: Options, path: str) -> Path | None:
    """Where a container's path lies on the VM, by its -v volumes."""
    for volume in options.all("-v", "--volume"):
        outside, _, inside = volume.partition(":")
        inside = inside.partition(":")[0]
        if inside and (path == inside or path.startswith(f"{inside}/")):
            return Path(outside + path.removeprefix(inside))
    return None


def with_own_files(options: Options, words: Sequence[str]) -> list[str]:
    """The words with the files of TLS where they lie on the VM."""
    return [
        str(mounted(options, word) or word) if before in TLS_FILES else word
        for before, word in zip(("", *words), words, strict=False)
    ]


def published_ports(options: Options) -> list[str]:
    """`-p` as HOST:CONTAINER pairs. An address before them means nothing: a VM has only its own."""
    pairs = []
    for port in options.all("-p", "--publish"):
        parts = port.removesuffix("/tcp").split(":")
        pairs.append(":".join(parts[-2:] if len(parts) > 1 else [parts[0], parts[0]]))
    return pairs


def has_old_metrics(image: str) -> bool:
    """Whether an image's vLLM has the metric names of before 0.9.2; a tag that says nothing has not."""
    version = re.match(r"vllm/vllm-openai:v(\d+)\.(\d+)\.(\d+)", image)
    return version is not None and tuple(map(int, version.groups())) < (0, 9, 2)


def engine_command(
    host: Host, options: Options, dialect: str, gpus: int, words: Sequence[str], own: Path
) -> str:
    """The shell commands that start the container's server; its secrets stay out of every argv."""
    facts = host.facts
    environment = container_environment(options)
    # the hub's files outlive the container where the cache is a volume
    cache = mounted(options, HF_CACHE) or mounted(options, "/data")
    token = mounted(options, environment.get("HF_TOKEN_PATH", f"{HF_CACHE}/token"))
    if token is not None:
        environment["HF_TOKEN_PATH"] = str(token)
    entrypoint = shlex.split(options.last("--entrypoint"))
    network = options.last("--network", "--net")
    argv = [facts["EMULATED_PYTHON"], "-m", "autoscaler.emulator.engine"]
    argv += ["--dialect", dialect, "--address", facts["EMULATED_VM_ADDRESS"]]
    argv += ["--gpu", facts["EMULATED_GPU"] or "cpu", "--gpus", str(max(gpus, 1))]
    argv += ["--time-factor", facts["EMULATED_TIME_FACTOR"]]
    argv += ["--models-directory", str(host.docker / "models" if cache else own)]
    argv += [f"--published={pair}" for pair in published_ports(options)]
    argv += ["--host-network"] if network == "host" else []
    argv += ["--fault", facts["EMULATED_ENGINE_FAULT"]] if facts["EMULATED_ENGINE_FAULT"] else []
    argv += ["--vllm-metrics", "v0"] if has_old_metrics(options.words[0]) else []
    argv += ["--real-llama-cpp"] if facts["EMULATED_REAL_LLAMA_CPP"] else []
    argv += shlex.split(facts["EMULATED_ENGINE_ARGUMENTS"])
    argv += ["--", *entrypoint, *with_own_files(options, words)]
    exports = [f"export {shlex.quote(f'{k}={v}')}" for k, v in environment.items()]
    return "\n".join([*exports, f"exec {shlex.join(argv)}", ""])


def run(host: Host, arguments: Sequence[str]) -> None:
    """docker run"""
    options = parse(arguments, RUN_VALUES, RUN_FLAGS, stop=True)
    if not options.words:
        raise DockerError('"docker run" requires at least 1 argument.')
    image, *words = options.words
    name = options.last("--name") or f"vm_{secrets.token_hex(4)}"
    directory = host.docker / "containers" / name
    if directory.exists():
        raise DockerError(
            "docker: Error response from daemon: Conflict. The container name "
            f'"/{name}" is already in use by container "{Container(directory).about["id"]}". You '
            "have to remove (or rename) that container to be able to reuse that name.",
            125,
        )
    try:
        dialect, _ = host.known_image(image)
    except DockerError as error:
        raise DockerError(
            f"Unable to find image '{image}' locally\ndocker: {error}.", 125
        ) from None
    gpus = claimed_gpus(host, options.last("--gpus"))
    if not host.image_mark(image).exists():
        print(f"Unable to find image '{image}' locally", file=sys.stderr)
        host.pull(image, quiet=True)
    if dialect == "shell":
        os.execvp(words[0] if words else "true", words or ["true"])
    identity = create(host, options, directory, dialect, gpus)
    Container(directory).start(host.facts)
    if {"-d", "--detach"} & options.flags:
        say(identity)
    else:
        attach(Container(directory), remove="--rm" in options.flags)


def create(host: Host, options: Options, directory: Path, dialect: str, gpus: Sequence[int]) -> str:
    """Write down what the container is, how it starts and what its keeper must know."""
    image, *words = options.words
    policy, _, retries = options.last("--restart", default="no").partition(":")
    about = {
        "id": secrets.token_hex(32),
        "image": image,
        "created": precise_time(time.time_ns()),
        "arguments": words,
        "policy": policy,
        "retries": int(retries or 0),
        "network": options.last("--network", "--net", default="bridge"),
        "ports": published_ports(options),
    }
    claims = host.root / "run/gpu"
    settings = {
        "policy": policy,
        "retries": retries or "0",
        "gpus": " ".join(map(str, gpus)),
        "gpu_mib": str(int(int(host.facts["EMULATED_GPU_MEMORY_MIB"]) * 0.9)),
        "gpu_claims": str(claims),
    }
    directory.mkdir()
    claims.mkdir(parents=True, exist_ok=True)
    command = directory / "command"
    command.touch(mode=0o600)  # the environment in it may hold a token
    command.write_text(engine_command(host, options, dialect, len(gpus), words, directory))
    lines = [f"{key}={shlex.quote(value)}" for key, value in settings.items()]
    (directory / "settings").write_text("\n".join([*lines, ""]))
    (directory / "about").write_text(json.dumps(about))
    return str(about["id"])


def precise_time(nanoseconds: int) -> str:
    """An instant as docker writes it; fine enough to order containers by."""
    seconds, rest = divmod(nanoseconds, 10**9)
    return time.strftime(f"%Y-%m-%dT%H:%M:%S.{rest:09}Z", time.gmtime(seconds))


def attach(container: Container, *, remove: bool) -> NoReturn:
    """Wait as `docker run` without -d does: show the log, exit as the container exits."""
    follow(container, tail=None)
    code = int(container.read("exit_code", "0"))
    if remove:
        shutil.rmtree(container.directory, ignore_errors=True)
    sys.exit(code)


def follow(container: Container, tail: int | None) -> None:
    """Print the log until the container has ended."""
    with open(container.directory / "log", "a+") as log:
        log.seek(0)
        if tail is not None:
            sys.stdout.writelines(log.readlines()[-tail:] if tail else [])
        while True:
            ended = container.status not in ("running", "restarting")
            text = log.read()
            sys.stdout.write(text)
            sys.stdout.flush()
            if ended and not text:
                return
            time.sleep(0.1)

"""`docker` of an emulated VM: the command line, over the containers of `containers.py`.

Standard library only, on a bare interpreter, for a startup script calls it often. What the emulator
does not know is refused as docker would refuse it, rather than passed over.
"""

from __future__ import annotations

import json
import os
import re
import secrets
import shlex
import shutil
import sys
import time
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, NoReturn

from autoscaler.emulator.machines.containers import Container, DockerError, Host, alive, say

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
STOP_TIMEOUT_S = 10.0
HF_CACHE = "/root/.cache/huggingface"


@dataclass
class Options:
    """A parsed command line: options as given, and the words after them."""

    flags: set[str] = field(default_factory=set)
    values: dict[str, list[str]] = field(default_factory=dict)
    words: list[str] = field(default_factory=list)

    def last(self, *names: str, default: str = "") -> str:
        """The last value given to an option under any of its names."""
        return next((v[-1] for n in names if (v := self.values.get(n))), default)

    def all(self, *names: str) -> list[str]:
        """Every value given to an option."""
        return [value for name in names for value in self.values.get(name, [])]


def parse(
    arguments: Sequence[str], values: Iterable[str], flags: Iterable[str], *, stop: bool = False
) -> Options:
    """Part options from words; with `stop`, the first word ends the options."""
    options, rest, takes_value, known = Options(), list(arguments), set(values), set(flags)
    while rest:
        word = rest.pop(0)
        name, equals, value = word.partition("=")
        if not word.startswith("-"):
            options.words.append(word)
            if stop:
                options.words += rest
                break
        elif name in takes_value:
            if not equals and not rest:
                raise DockerError(f"flag needs an argument: {name}", 125)
            options.values.setdefault(name, []).append(value if equals else rest.pop(0))
        elif name in known:
            if value != "false":
                options.flags.add(name)
        elif len(word) > 2 and word[:2] in takes_value and not word.startswith("--"):
            options.values.setdefault(word[:2], []).append(word[2:])
        else:
            raise DockerError(f"unknown flag: {name}\nSee 'docker --help'.", 125)
    return options


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


def published_ports(options: Options) -> list[str]:
    """`-p` as HOST:CONTAINER pairs. An address before them means nothing: a VM has only its own."""
    pairs = []
    for port in options.all("-p", "--publish"):
        parts = port.removesuffix("/tcp").split(":")
        pairs.append(":".join(parts[-2:] if len(parts) > 1 else [parts[0], parts[0]]))
    return pairs


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
    argv += ["--real-llama-cpp"] if facts["EMULATED_REAL_LLAMA_CPP"] else []
    argv += shlex.split(facts["EMULATED_ENGINE_ARGUMENTS"])
    argv += ["--", *entrypoint, *words]
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
    dialect, _ = host.known_image(image)
    gpus = claimed_gpus(host, options.last("--gpus"))
    if not host.image_mark(image).exists():
        print(f"Unable to find image '{image}' locally", file=sys.stderr)
        host.pull(image, quiet=True)
    if dialect == "shell":
        os.execvp(words[0] if words else "true", words or ["true"])
    directory.mkdir()
    policy, _, retries = options.last("--restart", default="no").partition(":")
    about = {
        "id": secrets.token_hex(32),
        "image": image,
        "created": time.strftime("%Y-%m-%dT%H:%M:%SZ", time.gmtime()),
        "arguments": words,
        "policy": policy,
        "retries": int(retries or 0),
        "network": options.last("--network", "--net", default="bridge"),
        "ports": published_ports(options),
    }
    (directory / "about").write_text(json.dumps(about))
    command = directory / "command"
    command.touch(mode=0o600)
    command.write_text(engine_command(host, options, dialect, len(gpus), words, directory))
    claims = host.root / "run/gpu"
    claims.mkdir(parents=True, exist_ok=True)
    settings = {
        "policy": policy,
        "retries": str(int(retries or 0)),
        "gpus": " ".join(map(str, gpus)),
        "gpu_mib": str(int(int(host.facts["EMULATED_GPU_MEMORY_MIB"]) * 0.9)),
        "gpu_claims": str(claims),
    }
    lines = [f"{key}={shlex.quote(value)}" for key, value in settings.items()]
    (directory / "settings").write_text("\n".join([*lines, ""]))
    Container(directory).start(host.facts)
    if {"-d", "--detach"} & options.flags:
        say(str(about["id"]))
    else:
        attach(Container(directory), remove="--rm" in options.flags)


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


def pull(host: Host, arguments: Sequence[str]) -> None:
    """docker pull"""
    options = parse(arguments, ["--platform"], ["-q", "--quiet"])
    if len(options.words) != 1:
        raise DockerError('"docker pull" requires exactly 1 argument.')
    host.pull(options.words[0], quiet=bool(options.flags))


def show(template: str, value: Mapping[str, Any]) -> str:
    """Fill a Go template in, as far as scripts use them: fields, and `json`.

    Raises:
        DockerError: a field that is not there.
    """

    def fill(match: re.Match[str]) -> str:
        found: Any = value
        for part in filter(None, match[2].split(".")):
            if not isinstance(found, Mapping) or part not in found:
                raise DockerError(f'template parsing error: map has no entry for key "{part}"')
            found = found[part]
        if match[1] or isinstance(found, bool | Mapping):
            return json.dumps(found)
        return str(found)

    text = template.replace("\\t", "\t").replace("\\n", "\n")
    return re.sub(r"\{\{\s*(json\s+)?(\.[\w.]*)\s*\}\}", fill, text)


def ps(host: Host, arguments: Sequence[str]) -> None:
    """docker ps"""
    options = parse(
        arguments,
        ["-f", "--filter", "--format", "-n", "--last"],
        ["-a", "--all", "-q", "--quiet", "--no-trunc", "-aq", "-qa", "-l"],
    )
    every = bool(options.flags & {"-a", "--all", "-aq", "-qa"})
    quiet = bool(options.flags & {"-q", "--quiet", "-aq", "-qa"})
    rows = []
    for container in host.containers():
        row = container.row()
        if not every and row["State"] not in ("running", "restarting"):
            continue
        if all(matches(row, condition) for condition in options.all("-f", "--filter")):
            rows.append(row)
    template = options.last("--format")
    if quiet or (template and not template.startswith("table")):
        for row in rows:
            say(show("{{.ID}}" if quiet else "{{json .}}" if template == "json" else template, row))
        return
    columns = ("ID", "Image", "Command", "CreatedAt", "Status", "Ports", "Names")
    say("CONTAINER ID   IMAGE   COMMAND   CREATED   STATUS   PORTS   NAMES")
    for row in rows:
        say("   ".join(row[column] for column in columns))


def matches(row: Mapping[str, str], condition: str) -> bool:
    """One `--filter`."""
    key, _, wanted = condition.partition("=")
    match key:
        case "name":
            return re.search(wanted.replace("^/", "^"), row["Names"]) is not None
        case "status":
            return row["State"] == wanted
        case "id":
            return row["ID"].startswith(wanted[:12])
        case "ancestor":
            return row["Image"].startswith(wanted)
        case _:
            raise DockerError(f"Error response from daemon: invalid filter '{key}'")


def inspect(host: Host, arguments: Sequence[str]) -> None:
    """docker inspect, of containers and images"""
    options = parse(arguments, ["-f", "--format", "--type"], ["-s", "--size"])
    found, missing = [], []
    for name in options.words:
        try:
            found.append(host.container(name).inspect())
        except DockerError:
            if host.image_mark(name).exists():
                found.append(image_facts(host, name))
            else:
                missing.append(name)
    template = options.last("-f", "--format")
    if template:
        for value in found:
            say(show(template, value))
    else:
        say(json.dumps(found, indent=4))
    if missing:
        raise DockerError(f"Error: No such object: {missing[0]}")


def image_facts(host: Host, image: str) -> dict[str, Any]:
    """What `docker image inspect` tells of an image that is here.

    Raises:
        DockerError: it is not.
    """
    if not host.image_mark(image).exists():
        raise DockerError(f"Error response from daemon: No such image: {image}")
    digest = f"sha256:{host.image_mark(image).name}"
    repository = image.partition("@")[0]
    return {
        "Id": digest,
        "RepoTags": [repository],
        "RepoDigests": [image if "@" in image else f"{repository.partition(':')[0]}@{digest}"],
        "Size": int(host.known_image(image)[1]),
        "Os": "linux",
        "Architecture": "amd64",
    }


def image(host: Host, arguments: Sequence[str]) -> None:
    """docker image"""
    action, *rest = arguments or ["ls"]
    if action == "inspect":
        options = parse(rest, ["-f", "--format"], [])
        facts = [image_facts(host, name) for name in options.words]
        template = options.last("-f", "--format")
        say(
            "\n".join(show(template, fact) for fact in facts)
            if template
            else json.dumps(facts, indent=4)
        )
    elif action == "pull":
        pull(host, rest)
    elif action == "ls":
        for mark in sorted((host.docker / "images").iterdir()):
            say(mark.read_text())
    else:
        raise DockerError(f"docker: '{action}' is not a docker image command of the emulator")


def logs(host: Host, arguments: Sequence[str]) -> None:
    """docker logs"""
    options = parse(
        arguments,
        ["-n", "--tail", "--since", "--until"],
        ["-f", "--follow", "-t", "--timestamps"],
    )
    container = host.container(options.words[0] if options.words else "")
    tail = options.last("-n", "--tail", default="all")
    count = None if tail == "all" else int(tail)
    if options.flags & {"-f", "--follow"}:
        follow(container, count)
        return
    lines = container.read("log").splitlines()
    for line in lines if count is None else lines[-count:] if count else []:
        say(line)


def stop(host: Host, arguments: Sequence[str]) -> None:
    """docker stop, docker kill"""
    options = parse(arguments, ["-t", "--time", "--timeout", "-s", "--signal"], [])
    wait_s = float(options.last("-t", "--time", "--timeout", default=str(STOP_TIMEOUT_S)))
    for name in options.words:
        host.container(name).stop(wait_s)
        say(name)


def kill(host: Host, arguments: Sequence[str]) -> None:
    """docker kill"""
    options = parse(arguments, ["-s", "--signal"], [])
    stop(host, ["--time", "0", *options.words])


def start(host: Host, arguments: Sequence[str]) -> None:
    """docker start"""
    for name in parse(arguments, [], ["-a", "-i"]).words:
        container = host.container(name)
        if container.status not in ("running", "restarting"):
            container.start(host.facts)
        say(name)


def restart(host: Host, arguments: Sequence[str]) -> None:
    """docker restart"""
    options = parse(arguments, ["-t", "--time", "--timeout"], [])
    for name in options.words:
        container = host.container(name)
        container.stop(STOP_TIMEOUT_S)
        container.start(host.facts)
        say(name)


def remove(host: Host, arguments: Sequence[str]) -> None:
    """docker rm"""
    options = parse(arguments, [], ["-f", "--force", "-v", "-fv", "-vf"])
    force = bool(options.flags & {"-f", "--force", "-fv", "-vf"})
    for name in options.words:
        try:
            container = host.container(name)
        except DockerError:
            if force:
                print(f"Error response from daemon: No such container: {name}", file=sys.stderr)
                continue
            raise
        if container.status in ("running", "restarting"):
            if not force:
                raise DockerError(
                    f'Error response from daemon: cannot remove container "/{name}": container is '
                    "running: stop the container before removing or force remove"
                )
            container.stop(0.0)
        shutil.rmtree(container.directory)
        say(name)


def wait(host: Host, arguments: Sequence[str]) -> None:
    """docker wait"""
    for name in arguments:
        container = host.container(name)
        while keeper := container.pid_of("keeper"):
            while alive(keeper):
                time.sleep(0.1)
        say(container.read("exit_code", "0"))


def execute(host: Host, arguments: Sequence[str]) -> None:
    """docker exec: on the VM itself, for an emulated container has no files of its own"""
    options = parse(arguments, ["-e", "--env", "-w", "-u"], ["-i", "-t", "-it", "-d"], stop=True)
    name, *words = options.words
    if host.container(name).status != "running":
        raise DockerError(f"Error response from daemon: container {name} is not running")
    os.execvp(words[0], words)


def restore(host: Host, _: Sequence[str]) -> None:
    """What dockerd does as it comes up: start again what was to run always."""
    for container in host.containers():
        stopped = (container.directory / "stopped").exists()
        for note in ("pid", "keeper"):
            (container.directory / note).unlink(missing_ok=True)
        policy = container.about["policy"]
        if policy == "always" or (policy in ("unless-stopped", "on-failure") and not stopped):
            (host.root / "run/gpu").mkdir(parents=True, exist_ok=True)
            container.start(host.facts)


def version(host: Host, arguments: Sequence[str]) -> None:
    """docker version, docker info"""
    facts = {
        "ServerVersion": "26.1.4",
        "Server": {"Version": "26.1.4"},
        "Client": {"Version": "26.1.4"},
        "Runtimes": {"nvidia": {}, "runc": {}},
        "Name": host.facts["EMULATED_VM_NAME"],
        "Containers": len(host.containers()),
    }
    template = parse(arguments, ["-f", "--format"], []).last("-f", "--format")
    if template:
        say(show(template, facts))
    else:
        say("Server Version: 26.1.4\n Runtimes: nvidia runc\n Server: an emulated VM's docker")


def login(host: Host, arguments: Sequence[str]) -> None:
    """docker login, logout: every registry believes"""
    if "--password-stdin" in arguments:
        sys.stdin.read()
    say("Login Succeeded")


COMMANDS = {
    "exec": execute,
    "image": image,
    "images": lambda host, _: image(host, ["ls"]),
    "info": version,
    "inspect": inspect,
    "kill": kill,
    "login": login,
    "logout": login,
    "logs": logs,
    "ps": ps,
    "pull": pull,
    "restart": restart,
    "restore-containers": restore,
    "rm": remove,
    "run": run,
    "start": start,
    "stop": stop,
    "version": version,
    "wait": wait,
}


def main() -> None:
    """Read the VM's facts, carry the command out, exit as docker would."""
    facts: dict[str, str] = {}
    for line in Path(sys.argv[1]).read_text().splitlines():
        key, _, value = line.partition("=")
        facts[key] = shlex.split(value)[0] if value not in ("", "''") else ""
    action, *arguments = sys.argv[2:] or ["help"]
    if action == "container" and arguments:
        action, *arguments = arguments
        action = "ps" if action in ("ls", "list") else action
    if action in ("--version", "-v"):
        say("Docker version 26.1.4, build emulated")
        return
    command = COMMANDS.get(action)
    try:
        if command is None:
            raise DockerError(f"docker: '{action}' is not a docker command of the emulator.")
        command(Host(facts), arguments)
    except DockerError as error:
        print(error, file=sys.stderr)
        sys.exit(error.code)
    except BrokenPipeError:
        sys.exit(1)

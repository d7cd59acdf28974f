"""`docker` of an emulated VM: the command line, over the containers of `containers.py`.

Standard library only, on a bare interpreter, for a startup script calls it often. What the emulator
does not know is refused as docker would refuse it, rather than passed over.
"""

from __future__ import annotations

import json
import os
import re
import shlex
import shutil
import sys
import time
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from autoscaler.emulator.machines.containers import DockerError, Host, alive, say
from autoscaler.emulator.machines.docker_options import parse
from autoscaler.emulator.machines.docker_run import follow, run

STOP_TIMEOUT_S = 10.0


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
    for container in reversed(host.containers()):
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

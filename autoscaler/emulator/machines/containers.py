"""The containers and images of an emulated VM, kept in directories.

Standard library only: the VM's `docker` runs this on a bare interpreter. A container is a directory
below VM_ROOT/var/lib/docker: what it is, its command, its log, its exit code, and the notes of the
keeper (the shim `container`) that starts its server and honours its restart policy.
"""

from __future__ import annotations

import contextlib
import json
import os
import shlex
import signal
import time
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from hashlib import sha256
from pathlib import Path
from typing import Any

HUB_BITS_PER_S = 1e9
# image → what serves in it, and what its layers weigh
IMAGES = {
    "vllm/vllm-openai": ("vllm", 9.1e9),
    "lmsysorg/sglang": ("sglang", 12.4e9),
    "ghcr.io/ggml-org/llama.cpp": ("llama.cpp", 1.9e9),
    "ghcr.io/huggingface/text-embeddings-inference": ("tei", 0.9e9),
    "michaelf34/infinity": ("infinity", 4.2e9),
    "nvidia/cuda": ("shell", 0.09e9),
}


class DockerError(Exception):
    """What docker would print, and its exit code."""

    def __init__(self, message: str, code: int = 1) -> None:
        super().__init__(message)
        self.code = code


@dataclass(frozen=True)
class Host:
    """The VM that this docker belongs to."""

    facts: Mapping[str, str]

    @property
    def root(self) -> Path:
        return Path(self.facts["VM_ROOT"])

    @property
    def docker(self) -> Path:
        return self.root / "var/lib/docker"

    @property
    def gpus(self) -> int:
        return int(self.facts["EMULATED_GPUS"])

    def containers(self) -> list[Container]:
        """Every container, oldest first."""
        found = [
            Container(d) for d in (self.docker / "containers").iterdir() if (d / "about").exists()
        ]
        return sorted(found, key=lambda container: container.about["created"])

    def container(self, name: str) -> Container:
        """The container of that name or id."""
        for container in self.containers():
            identity = container.about["id"]
            if name.lstrip("/") == container.name or (len(name) > 3 and identity.startswith(name)):
                return container
        raise DockerError(f"Error response from daemon: No such container: {name}")

    def known_image(self, image: str) -> tuple[str, float]:
        """What an image serves, and its size."""
        name = image.partition("@")[0]
        repository = name.rpartition(":")[0] if ":" in name.rpartition("/")[2] else name
        try:
            return IMAGES[repository.removeprefix("docker.io/")]
        except KeyError:
            raise DockerError(
                f"Error response from daemon: pull access denied for {repository}, repository does "
                "not exist or may require 'docker login': denied: requested access to the resource "
                "is denied"
            ) from None

    def image_mark(self, image: str) -> Path:
        return self.docker / "images" / sha256(image.encode()).hexdigest()

    def pull(self, image: str, *, quiet: bool) -> None:
        """Fetch an image at the hub's speed; at once when it is here."""
        _, size = self.known_image(image)
        tag = image.rpartition(":")[2] if ":" in image.rpartition("/")[2] else "latest"
        digest = f"sha256:{sha256(image.encode()).hexdigest()}"
        repository = image.partition("@")[0].removesuffix(f":{tag}")
        here = self.image_mark(image).exists()
        if not here:
            time.sleep(size * 8 / HUB_BITS_PER_S / float(self.facts["EMULATED_TIME_FACTOR"]))
            self.image_mark(image).write_text(image)
        if quiet:
            return
        state = "Image is up to date for" if here else "Downloaded newer image for"
        say(f"{tag}: Pulling from {repository}")
        say(f"Digest: {image.partition('@')[2] or digest}")
        say(f"Status: {state} {image}")
        say(image)


@dataclass(frozen=True)
class Container:
    """One container: a directory."""

    directory: Path

    @property
    def about(self) -> dict[str, Any]:
        about: dict[str, Any] = json.loads((self.directory / "about").read_text())
        return about

    @property
    def name(self) -> str:
        return self.directory.name

    def read(self, name: str, default: str = "") -> str:
        """One of the keeper's notes."""
        try:
            return (self.directory / name).read_text().strip()
        except FileNotFoundError:
            return default

    def pid_of(self, name: str) -> int:
        """A process by the keeper's note, 0 when it has ended."""
        pid = int(self.read(name, "0") or 0)
        return pid if pid and alive(pid) else 0

    @property
    def status(self) -> str:
        if self.pid_of("pid"):
            return "running"
        if self.pid_of("keeper"):
            return "restarting"
        return "exited" if self.read("started") else "created"

    def start(self, facts: Mapping[str, str]) -> None:
        """Start the keeper, and with it the server."""
        for note in ("stopped", "exit_code", "pid", "keeper"):
            (self.directory / note).unlink(missing_ok=True)
        environment = {
            "HOME": f"{facts['VM_ROOT']}/root",
            "LANG": "C.UTF-8",
            "PATH": os.environ.get("PATH", "/usr/bin:/bin"),
            "PYTHONPATH": facts["EMULATED_PYTHONPATH"],
            "PYTHONDONTWRITEBYTECODE": "1",
            "TMPDIR": f"{facts['VM_ROOT']}/tmp",
        }
        keeper = f"{facts['VM_ROOT']}/bin/container"
        if os.fork() == 0:
            os.setsid()
            with open(os.devnull, "r+b") as nothing:
                for target in (0, 1, 2):
                    os.dup2(nothing.fileno(), target)
            os.execve("/bin/sh", ["sh", keeper, str(self.directory)], environment)
        wait_until(lambda: bool(self.read("pid") or self.read("exit_code")), 5.0)

    def stop(self, timeout_s: float) -> None:
        """SIGTERM, then SIGKILL. The keeper does not restart what was stopped."""
        (self.directory / "stopped").touch()
        pid = self.pid_of("pid")
        if pid:
            send(pid, signal.SIGTERM if timeout_s > 0 else signal.SIGKILL)
            if not wait_until(lambda: not alive(pid), timeout_s):
                send(pid, signal.SIGKILL)
        elif keeper := self.pid_of("keeper"):
            send(keeper, signal.SIGKILL)  # asleep between two tries
            (self.directory / "keeper").unlink(missing_ok=True)
        wait_until(lambda: not self.pid_of("keeper"), 5.0)

    def inspect(self) -> dict[str, Any]:
        """What `docker inspect` tells of it."""
        about, status = self.about, self.status
        return {
            "Id": about["id"],
            "Name": f"/{self.name}",
            "Created": about["created"],
            "RestartCount": int(self.read("restarts", "0")),
            "Image": about["image"],
            "Args": about["arguments"],
            "State": {
                "Status": status,
                "Running": status in ("running", "restarting"),
                "Restarting": status == "restarting",
                "Paused": False,
                "OOMKilled": False,
                "Dead": False,
                "Pid": self.pid_of("pid"),
                "ExitCode": int(self.read("exit_code", "0")),
                "Error": "",
                "StartedAt": self.read("started"),
                "FinishedAt": self.read("finished"),
            },
            "Config": {"Image": about["image"], "Cmd": about["arguments"], "Labels": {}},
            "HostConfig": {
                "RestartPolicy": {
                    "Name": about["policy"],
                    "MaximumRetryCount": about["retries"],
                },
                "NetworkMode": about["network"],
            },
        }

    def row(self) -> dict[str, str]:
        """What `docker ps` tells of it."""
        status, about = self.status, self.about
        words = {
            "running": f"Up since {self.read('started')}",
            "restarting": f"Restarting ({self.read('exit_code', '0')})",
            "exited": f"Exited ({self.read('exit_code', '0')})",
        }
        return {
            "ID": about["id"][:12],
            "Image": about["image"],
            "Command": json.dumps(shlex.join(about["arguments"])[:19]),
            "CreatedAt": about["created"],
            "RunningFor": f"since {about['created']}",
            "Status": words.get(status, "Created"),
            "State": status,
            "Ports": ", ".join(about["ports"]),
            "Names": self.name,
        }


def say(text: str) -> None:
    """Print a line at once."""
    print(text, flush=True)


def alive(pid: int) -> bool:
    """Whether a process runs; one that waits to be reaped does not."""
    try:
        with open(f"/proc/{pid}/stat", "rb") as file:
            return file.read().rpartition(b")")[2].split()[0] not in (b"Z", b"X")
    except OSError:
        return False


def send(pid: int, number: int) -> None:
    """Signal a process that may have ended."""
    with contextlib.suppress(ProcessLookupError):
        os.kill(pid, number)


def wait_until(done: Callable[[], bool], timeout_s: float) -> bool:
    """Poll; false when time is up."""
    deadline = time.monotonic() + timeout_s
    while not done():
        if time.monotonic() > deadline:
            return False
        time.sleep(0.01)
    return True

"""The scripts, run by a real bash on a directory that stands for a VM, with commands that record their words."""

from __future__ import annotations

import asyncio
import os
import shutil
import signal
from collections.abc import AsyncIterator, Iterator
from contextlib import asynccontextmanager, suppress
from dataclasses import dataclass
from pathlib import Path

import asyncssh
import pytest

from autoscaler.nodes.hostkey import is_proven
from autoscaler.nodes.startup.presets import presets
from autoscaler.nodes.verify_boot import parse_boot
from autoscaler.policy import Engine, Policy
from tests.nodes.vm_parts import NONCE, TLS, machine, offer, policy, script, until

HOSTILE = (
    "it's $HOME",
    "`touch pwned`",
    '"; touch pwned; #',
    "$(touch pwned)",
    "a\nb\\n\\",
    "~/x {a,b} * ?",
    "é ☃ \x1b[31m",
    "-e",
    "",
    "  ",
)
GPU = "{index}, NVIDIA L40S, 46068, {driver}, 0"
DIGEST = "6cf9" * 16
DOCKER = """#!/bin/bash
printf '%s\\0' "$@" >>"$BOX/docker.calls"; printf '\\1\\0' >>"$BOX/docker.calls"
case "$1 ${2-}" in
    "image inspect") [ -e "$BOX/pulled" ] || exit 1; echo "[\\"vllm/vllm-openai@sha256:$DIGEST\\"]" ;;
    pull*) [ ! -e "$BOX/no-hub" ] || { echo 'toomanyrequests: slow down' >&2; exit 1; }; touch "$BOX/pulled" ;;
    "inspect --format") cat "$BOX/restarts" ;;
    inspect*) [ -e "$BOX/running" ] ;;
    run*) touch "$BOX/running" ;;
    rm*) rm -f "$BOX/running" ;;
    logs*) echo 'CUDA error: out of memory' ;;
esac
"""


@dataclass
class Box:
    """A directory that stands for a VM, and the commands it has."""

    path: Path
    address: str

    @property
    def root(self) -> Path:
        return self.path / "root"

    def command(self, name: str, body: str) -> None:
        """Give the VM a command of this name."""
        place = self.path / "bin" / name
        place.write_text(body if body.startswith("#!") else f"#!/bin/sh\n{body}\n")
        place.chmod(0o755)

    def gpus(self, count: int, driver: str = "535.161.08") -> None:
        lines = [GPU.format(index=i, driver=driver) for i in range(count)]
        self.command("nvidia-smi", "cat <<'END'\n" + "\n".join(lines) + "\nEND")

    async def start(self, text: str) -> asyncio.subprocess.Process:
        """Start the script as a VM does at boot."""
        place = self.path / "startup"
        place.write_text(text)
        environment = {
            "PATH": f"{self.path / 'bin'}:/usr/sbin:/usr/bin:/sbin:/bin",
            "BOX": str(self.path),
            "DIGEST": DIGEST,
            "VM_ROOT": str(self.root),
            "VM_ADDRESS": self.address,
        }
        return await asyncio.create_subprocess_exec("bash", str(place), env=environment, cwd="/")

    async def run(self, text: str) -> int:
        """Run the script to its end."""
        process = await self.start(text)
        async with asyncio.timeout(90):
            return await process.wait()

    def reboot(self) -> None:
        shutil.rmtree(self.root / "run")

    def read(self, name: str) -> str:
        return (self.root / "run/autoscaler" / name).read_text().strip()

    def docker(self, verb: str) -> list[list[str]]:
        """The words of every call of docker with this verb."""
        try:
            words = (self.path / "docker.calls").read_bytes().decode().split("\0")
        except FileNotFoundError:
            return []
        calls: list[list[str]] = [[]]
        for word in words[:-1]:
            if word == "\x01":
                calls.append([])
            else:
                calls[-1].append(word)
        return [call for call in calls if call[:1] == [verb]]


def default_image() -> str:
    return presets()[Engine.VLLM][0].images["gpu"]


@pytest.fixture
def box(tmp_path: Path) -> Iterator[Box]:
    made = Box(tmp_path, machine("", offer()).address)
    (tmp_path / "bin").mkdir()
    (tmp_path / "restarts").write_text("0\n")
    (made.root / "etc/ssh").mkdir(parents=True)
    key = asyncssh.generate_private_key("ssh-ed25519", comment="root@vm")
    (made.root / "etc/ssh/ssh_host_ed25519_key.pub").write_bytes(key.export_public_key())
    made.gpus(1)
    made.command("docker", DOCKER)
    made.command("iptables", "exit 0")
    made.command("systemctl", "exit 3")
    yield made
    loop = made.root / "run/autoscaler/custom.pid"  # a custom script is run again for ever
    if loop.exists():
        with suppress(ProcessLookupError):
            os.killpg(int(loop.read_text()), signal.SIGKILL)


@asynccontextmanager
async def healthy(box: Box, *ports: int) -> AsyncIterator[None]:
    """A server that answers 200 on these ports of the VM."""

    async def answer(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        await reader.readuntil(b"\r\n\r\n")
        writer.write(b"HTTP/1.0 200 OK\r\n\r\n")
        writer.close()

    servers = [await asyncio.start_server(answer, box.address, port) for port in ports or (8000,)]
    try:
        yield
    finally:
        for server in servers:
            server.close()


def quick(stage: str, length: str = "1s", **server: object) -> Policy:
    """A policy one of whose stages may take a moment only; the others have their time, however slow we are."""
    return policy(server=server, deadlines={stage: length})


async def test_hostile_words_of_a_policy_reach_the_server_byte_for_byte(box: Box) -> None:
    env = {f"V{i}": word for i, word in enumerate(HOSTILE)}
    model = policy(server={"args": HOSTILE, "env": env})

    async with healthy(box):
        code = await box.run(script(model, offer()).text)

    assert code == 0
    (call,) = box.docker("run")
    assert call[-len(HOSTILE) :] == list(HOSTILE)
    given = {call[i + 1] for i, word in enumerate(call) if word == "--env"}
    assert {f"{name}={word}" for name, word in env.items()} <= given
    assert not list(box.path.rglob("pwned"))


async def test_each_replica_gets_its_own_gpus_and_its_own_port(box: Box) -> None:
    box.gpus(4)
    model = policy(hardware={"tensor_parallel": 2})

    async with healthy(box, 8000, 8001):
        await box.run(script(model, offer(4)).text)

    calls = box.docker("run")
    assert [call[call.index("--gpus") + 1] for call in calls] == ['"device=0,1"', '"device=2,3"']
    assert [call[call.index("--publish") + 1] for call in calls] == ["8000:8000", "8001:8001"]
    assert [call[call.index("--port") + 1] for call in calls] == ["8000", "8001"]


async def test_a_second_run_in_one_boot_starts_no_second_server(box: Box) -> None:
    text = script(policy(), offer()).text

    async with healthy(box):
        codes = [await box.run(text), await box.run(text)]

    assert codes == [0, 0]
    assert len(box.docker("run")) == 1
    assert len(box.docker("pull")) == 1
    assert box.read("status") == "finished"
    assert box.read("rc") == "0"


async def test_after_a_reboot_the_server_starts_anew_once_its_disk_is_there(box: Box) -> None:
    text = script(policy(), offer()).text

    async with healthy(box):
        await box.run(text)
        box.reboot()
        await box.run(text)

    assert [call[:2] for call in box.docker("rm")] == [["rm", "-f"], ["rm", "-f"]]
    assert len(box.docker("run")) == 2


async def test_the_proof_of_the_host_key_is_the_hmac_that_the_daemon_computes(box: Box) -> None:
    async with healthy(box):
        await box.run(script(policy(), offer()).text)

    key = (box.root / "etc/ssh/ssh_host_ed25519_key.pub").read_text()
    assert is_proven(box.read("host_key_proof"), NONCE, key)


async def test_a_host_key_that_is_replaced_while_the_machine_comes_up_is_proven_too(
    box: Box,
) -> None:
    other = asyncssh.generate_private_key("ssh-ed25519").export_public_key().decode().strip()
    public = box.root / "etc/ssh/ssh_host_ed25519_key.pub"
    box.command("iptables", f"printf %s '{other}' >'{public}'")  # as late as the firewall's stage

    async with healthy(box):
        await box.run(script(policy(), offer()).text)

    assert is_proven(box.read("host_key_proof"), NONCE, other)


async def test_a_power_off_asks_every_server_to_end(box: Box) -> None:
    await box.run(script(policy(), offer(2)).shutdown)

    (call,) = box.docker("stop")
    assert call[-2:] == ["autoscaler-0", "autoscaler-1"]


async def test_an_old_driver_fails_before_the_pull_and_names_what_would_fit(box: Box) -> None:
    model = policy(server={"image": "vllm/vllm-openai:v0.10.2"})

    code = await box.run(script(model, offer()).text)

    assert code == 1
    assert box.read("status") == (
        "failed driver 1 driver 535.161.08 is older than 570.26, which vllm/vllm-openai:v0.10.2 "
        f"needs; fits driver 535.161.08: preset vllm-0.8.5 ({default_image()})"
    )
    assert [line.split()[1] for line in box.read("stages").splitlines()] == ["host_key", "driver"]
    assert box.docker("pull") == []


async def test_the_digest_that_was_pulled_is_said(box: Box) -> None:
    async with healthy(box):
        await box.run(script(policy(), offer()).text)

    assert parse_boot("image " + box.read("image")).image_digest == DIGEST


async def test_raw_local_disks_are_joined_and_hold_the_weights(box: Box) -> None:
    (box.root / "dev").mkdir()
    for name in ("nvme0n1", "nvme1n1", "nvme2n1"):
        (box.root / "dev" / name).touch()
    box.command("blkid", "exit 2")
    box.command("mountpoint", "exit 1")
    box.command("lsblk", "echo one-line")
    box.command("wipefs", 'case $2 in *nvme2n1) echo "ext4 somebody-elses" ;; esac')
    for name in ("mdadm", "mkfs.ext4", "mount"):
        box.command(name, f'echo "$@" >>"$BOX/{name}.calls"')

    async with healthy(box):
        await box.run(script(policy(), offer()).text)

    dev = box.root / "dev"
    made = (box.path / "mdadm.calls").read_text()
    assert made.endswith(f"--raid-devices=2 {dev}/nvme0n1 {dev}/nvme1n1\n")
    assert (box.path / "mkfs.ext4.calls").read_text().endswith(f"{dev}/md/autoscaler\n")
    assert box.read("data") == f"{box.root}/mnt/autoscaler/data"
    assert f"{box.root}/mnt/autoscaler/data/hub:/data" in box.docker("run")[0]


async def test_without_local_disks_the_weights_go_to_the_systems_disk(box: Box) -> None:
    async with healthy(box):
        await box.run(script(policy(), offer()).text)

    assert box.read("data") == f"{box.root}/var/lib/autoscaler/data"


async def test_a_token_that_does_not_come_ends_its_stage_in_time(box: Box) -> None:
    (box.path / "token").touch(mode=0o600)

    await box.run(script(quick("token", token_file=str(box.path / "token")), offer()).text)

    assert box.read("status") == "failed token 1 no token for the weights came within 1 s"


async def test_a_certificate_that_does_not_come_ends_its_stage_in_time(box: Box) -> None:
    await box.run(script(quick("token"), offer(), config=TLS).text)

    assert box.read("status") == "failed tls 1 no certificate came within 1 s"


async def test_a_hub_that_refuses_ends_the_pull_in_time_with_its_words(box: Box) -> None:
    (box.path / "no-hub").touch()

    # docker itself must be up within the same time
    await box.run(script(quick("pull", "3s"), offer()).text)

    assert box.read("status").startswith(f"failed pull 1 cannot pull {default_image()} within")
    assert box.read("status").endswith("toomanyrequests: slow down")


async def test_a_server_that_never_answers_ends_its_stage_in_time(box: Box) -> None:
    await box.run(script(quick("health"), offer()).text)

    assert box.read("status") == "failed health 1 the server on port 8000 is not healthy after 1 s"


async def test_a_server_that_keeps_dying_fails_at_once_with_its_last_words(box: Box) -> None:
    (box.path / "restarts").write_text("5\n")

    await box.run(script(policy(), offer()).text)

    assert box.read("status") == (
        "failed health 1 the server died 5 times: CUDA error: out of memory"
    )


async def test_a_script_that_is_ended_from_outside_says_where(box: Box) -> None:
    process = await box.start(script(policy(), offer()).text)

    async def in_health() -> bool | None:
        stages = box.root / "run/autoscaler/stages"
        return (stages.exists() and stages.read_text().endswith(" health\n")) or None

    await until(in_health)
    process.send_signal(signal.SIGTERM)
    async with asyncio.timeout(60):
        await process.wait()

    assert box.read("status").startswith("failed health 143 ")


def custom(box: Box, body: str, **server: object) -> Policy:
    (box.path / "serve.sh").write_text(body)
    return policy("custom", server={"script": str(box.path / "serve.sh"), **server})


async def test_a_custom_script_that_exits_1_fails_at_once_with_its_last_words(box: Box) -> None:
    model = custom(box, "echo no such model; exit 1\n")

    await box.run(script(model, offer()).text)

    assert box.read("status") == ("failed health 1 the custom script ended with 1: no such model")


async def test_a_custom_script_gets_its_words_and_is_run_again_when_it_dies(box: Box) -> None:
    body = 'printf "%s\\0" "$AUTOSCALER_PORT" "$SAY" "$@" >>"$BOX/seen"; exit 3\n'
    model = custom(box, body, args=HOSTILE, env={"SAY": HOSTILE[0]})
    seen = box.path / "seen"
    run = ["8000", HOSTILE[0], *HOSTILE]

    async def twice() -> bool | None:
        return (seen.exists() and seen.read_text().count("\0") >= 2 * len(run)) or None

    async with healthy(box):
        code = await box.run(script(model, offer()).text)
        await until(twice)

    assert code in (0, 1)  # healthy before it died for the first time, or after
    assert seen.read_text().split("\0")[: len(run)] == run

"""Containers of a VM: real processes that really serve, restarted by docker's rules."""

from __future__ import annotations

import asyncio
import json
from collections.abc import AsyncIterator, Awaitable, Callable
from pathlib import Path

import aiohttp
import asyncssh
import pytest

from autoscaler.emulator.machine import MachineSpec
from autoscaler.emulator.machines.local import LocalMachines

Build = Callable[..., MachineSpec]
LogIn = Callable[..., Awaitable[asyncssh.SSHClientConnection]]
Ask = Callable[..., Awaitable[tuple[int, str]]]

VLLM = "vllm/vllm-openai:v0.11.0"
CHAT = {"model": "chat", "messages": [{"role": "user", "content": "hi"}], "max_tokens": 3}


@pytest.fixture
async def ask() -> AsyncIterator[Ask]:
    """Ask a server until it listens and has loaded."""
    async with aiohttp.ClientSession() as session:

        async def get(url: str, body: object = None, *, ready: bool = True) -> tuple[int, str]:
            async with asyncio.timeout(30):
                while True:
                    try:
                        method = "POST" if body else "GET"
                        async with session.request(method, url, json=body) as response:
                            if response.status != 503 or not ready:
                                return response.status, await response.text(errors="replace")
                    except aiohttp.ClientConnectionError:
                        pass
                    await asyncio.sleep(0.02)

        yield get


async def run(connection: asyncssh.SSHClientConnection, command: str) -> str:
    result = await connection.run(command)
    assert result.exit_status == 0, result.stderr
    return str(result.stdout).strip()


async def test_a_startup_script_brings_up_a_server_that_is_restarted_when_it_dies(
    machines: LocalMachines, spec: Build, log_in: LogIn, ask: Ask
) -> None:
    script = (
        "#!/bin/bash\nset -euo pipefail\nnvidia-smi -L\n"
        f"docker run -d --name server --restart unless-stopped --gpus all --network host {VLLM} "
        "--model demo/chat-8b --served-model-name chat --tensor-parallel-size 2 --port 8000\n"
    )
    machine = spec(startup_script=script)
    connection = await log_in(machine, await machines.boot(machine, 0.0))
    url = f"http://{machine.address}:8000"

    assert (await ask(f"{url}/health"))[0] == 200
    status, answer = await ask(f"{url}/v1/chat/completions", CHAT)
    assert (status, json.loads(answer)["usage"]["completion_tokens"]) == (200, 3)
    assert await run(connection, "nvidia-smi --query-gpu=memory.used --format=csv,noheader") == (
        "41461 MiB\n41461 MiB"
    )

    await run(connection, "kill -9 $(docker inspect -f '{{.State.Pid}}' server)")
    await run(
        connection,
        "until [ \"$(docker inspect -f '{{.RestartCount}}' server)\" = 1 ]; do sleep 0.05; done",
    )
    assert (await ask(f"{url}/health"))[0] == 200
    assert "startup complete" in await run(connection, "docker logs --tail 1 server 2>&1")

    await machines.power_off(machine.vm_id, 1.0)
    with pytest.raises(aiohttp.ClientConnectionError):
        async with aiohttp.ClientSession() as session:
            await session.get(f"{url}/health")


async def test_docker_keeps_what_was_to_run_over_a_reboot(
    machines: LocalMachines, spec: Build, log_in: LogIn, ask: Ask
) -> None:
    machine = spec()
    connection = await log_in(machine, await machines.boot(machine, 0.0))
    await run(
        connection,
        f"for p in always unless-stopped no; do docker run -d --name $p --restart $p {VLLM}; done; "
        "docker run -d --name stopped --restart unless-stopped -p 9000:8000 "
        f"{VLLM} --model demo/chat-8b; docker stop stopped",
    )
    await machines.kill(machine.vm_id)

    connection = await log_in(machine, await machines.boot(machine, 0.0))

    running = await run(connection, "docker ps --format '{{.Names}}'")
    assert running.split() == ["unless-stopped", "always"]  # the newest first, as docker lists
    every = await run(
        connection, "docker ps -a --filter name=stop --format '{{.Names}} {{.State}}'"
    )
    assert every.splitlines() == ["stopped exited", "unless-stopped running"]


async def test_a_published_port_is_the_machines_and_names_are_taken_once(
    machines: LocalMachines, spec: Build, log_in: LogIn, ask: Ask
) -> None:
    machine = spec()
    connection = await log_in(machine, await machines.boot(machine, 0.0))
    start = f"docker run -d --name m --gpus 1 -p 8001:8000 {VLLM} --model demo/chat-8b"

    identity = await run(connection, start)
    again = await connection.run(start)

    assert (again.exit_status, identity in str(again.stderr)) == (125, True)
    assert (await ask(f"http://{machine.address}:8001/health"))[0] == 200
    assert await run(connection, "docker rm -f m && docker ps -aq") == "m"
    await run(connection, start)


async def test_a_gated_model_needs_the_token_that_the_container_was_given(
    machines: LocalMachines, spec: Build, log_in: LogIn, ask: Ask
) -> None:
    machine = spec()
    connection = await log_in(machine, await machines.boot(machine, 0.0))
    model = "--model meta-llama/Llama-3.1-8B-Instruct --max-model-len 8192"

    await run(connection, f"docker run -d --name bare {VLLM} {model}; docker wait bare")
    await run(connection, 'echo "HF_TOKEN=hf_secret" > "$VM_ROOT/run/env"')
    await run(
        connection,
        f'docker run -d --name good --env-file "$VM_ROOT/run/env" -p 8002:8000 {VLLM} {model}',
    )

    assert "gated repo" in await run(connection, "docker logs bare")
    assert await run(connection, "docker inspect -f '{{.State.ExitCode}}' bare") == "1"
    assert (await ask(f"http://{machine.address}:8002/health"))[0] == 200
    assert "hf_secret" not in await run(connection, "ps axww -o args; docker inspect good")


@pytest.mark.parametrize(
    ("tag", "name"),
    [("v0.8.5", "vllm:gpu_cache_usage_perc"), ("v0.10.2", "vllm:kv_cache_usage_perc")],
)
async def test_an_old_vllm_image_has_the_metric_names_of_its_time(
    machines: LocalMachines, spec: Build, log_in: LogIn, ask: Ask, tag: str, name: str
) -> None:
    machine = spec()
    connection = await log_in(machine, await machines.boot(machine, 0.0))
    await run(connection, f"docker run -d -p 8000:8000 vllm/vllm-openai:{tag} --model demo/chat-8b")

    page = (await ask(f"http://{machine.address}:8000/metrics"))[1]

    assert f"{name}{{" in page


async def test_garbage_comes_from_a_server_that_says_it_is_healthy(
    machines: LocalMachines, spec: Build, log_in: LogIn, ask: Ask
) -> None:
    machine = spec(boot_faults=frozenset({"health_ok_generation_garbage"}))
    connection = await log_in(machine, await machines.boot(machine, 0.0))
    await run(connection, f"docker run -d -p 8000:8000 {VLLM} --served-model-name chat")
    url = f"http://{machine.address}:8000"

    assert (await ask(f"{url}/health"))[0] == 200
    status, answer = await ask(f"{url}/v1/chat/completions", CHAT)
    assert status == 200
    with pytest.raises(ValueError, match="Expecting value"):
        json.loads(answer)


async def test_the_real_llama_cpp_server_stands_in_for_its_emulation(
    spec: Build, log_in: LogIn, ask: Ask, tmp_path: Path
) -> None:
    machines = LocalMachines(tmp_path, real_llama_cpp=True)
    machine = spec(gpu=None, gpus=0)
    try:
        connection = await log_in(machine, await machines.boot(machine, 0.0))
        await run(
            connection,
            "docker run -d --network host ghcr.io/ggml-org/llama.cpp:server-b4719 -m /models/x.gguf "
            "--host 0.0.0.0 --port 8080 --alias chat -np 2 -c 1024 --metrics",
        )
        url = f"http://{machine.address}:8080"

        assert json.loads((await ask(f"{url}/health"))[1]) == {"status": "ok"}
        status, answer = await ask(f"{url}/v1/chat/completions", CHAT)
        assert (status, json.loads(answer)["usage"]["completion_tokens"]) == (200, 3)
        assert "llamacpp:requests_deferred" in (await ask(f"{url}/metrics"))[1]
    finally:
        await machines.close()

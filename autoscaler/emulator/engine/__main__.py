"""Run an emulated model server: `python -m autoscaler.emulator.engine --help`."""

from __future__ import annotations

import asyncio
import contextlib
import hashlib
import os
import signal
import ssl
import sys
from pathlib import Path

from aiohttp import web

from autoscaler.emulator.engine.batch import Batch
from autoscaler.emulator.engine.commandline import Settings, parse
from autoscaler.emulator.engine.figures import Figures
from autoscaler.emulator.engine.hub import ModelShape, model_shape
from autoscaler.emulator.engine.profiles import gpu_profiles
from autoscaler.emulator.engine.running import Engine
from autoscaler.emulator.engine.server import Server
from autoscaler.emulator.engine.speed import DoesNotFit, Speed, roofline

HUB_BYTES_PER_S = 1e9 / 8
START_S = {"vllm": 30.0, "sglang": 30.0, "llama.cpp": 4.0, "tei": 4.0, "infinity": 8.0}
CLOSE_TIMEOUT_S = 1.0


class CannotServe(Exception):
    """What the real server would say as it gives up."""


def say(text: str) -> None:
    """A line of the server's log."""
    print(text, file=sys.stderr, flush=True)


def plan(settings: Settings, shape: ModelShape) -> tuple[Speed, int]:
    """The replica's speed and context length.

    Raises:
        CannotServe: the GPUs are too few or too small, or the hub refuses.
    """
    profile = gpu_profiles().get(settings.gpu)
    if profile is None:
        raise CannotServe(f"unknown GPU {settings.gpu!r}: one of {', '.join(gpu_profiles())}")
    if settings.tensor_parallel > settings.gpus:
        raise CannotServe(
            f"RuntimeError: tensor parallel size ({settings.tensor_parallel}) is larger than the "
            f"number of available GPUs ({settings.gpus})."
        )
    if shape.is_gated and not settings.hub_token:
        raise CannotServe(
            f"OSError: You are trying to access a gated repo. 401 Client Error. Access to model "
            f"{settings.model} is restricted. You must have access to it and be authenticated."
        )
    try:
        speed = roofline(
            shape,
            profile,
            tensor_parallel=settings.tensor_parallel,
            memory_utilization=settings.memory_utilization,
            factor=settings.speed,
        )
    except DoesNotFit as error:
        raise CannotServe(
            f"torch.OutOfMemoryError: CUDA out of memory. {error}. Use more GPUs, or smaller weights."
        ) from None
    context = settings.max_model_len or shape.context
    if context > speed.kv_tokens and not shape.is_embedding:
        raise CannotServe(
            f"ValueError: The model's max seq len ({context}) is larger than the maximum number of "
            f"tokens that can be stored in KV cache ({speed.kv_tokens}). Try increasing "
            "`gpu_memory_utilization` or decreasing `max_model_len` when initializing the engine."
        )
    return speed, context


def mark_of(settings: Settings) -> Path | None:
    """The file that says that the model has been fetched from the hub."""
    if settings.models_directory is None:
        return None
    return settings.models_directory / hashlib.sha256(settings.model.encode()).hexdigest()


def load_seconds(settings: Settings, shape: ModelShape) -> float:
    """Real seconds until the model serves: fetch the weights, unless they are here; start."""
    if settings.load_seconds is not None:
        return settings.load_seconds
    mark = mark_of(settings)
    fetched = mark is not None and mark.exists()
    fetch_s = 0.0 if fetched else shape.weight_bytes / HUB_BYTES_PER_S
    return (fetch_s + START_S[settings.dialect]) / settings.time_factor


async def serve(settings: Settings) -> None:
    """Listen, load, serve until SIGTERM."""
    shape = model_shape(settings.model)
    speed, context = plan(settings, shape)
    batch = Batch(
        speed=speed,
        figures=Figures(),
        max_num_seqs=settings.max_num_seqs,
        prefill_tokens_per_step=settings.prefill_tokens,
        emit_every_s=1 / settings.events_per_second,
    )
    server = Server(settings, shape, Engine(batch), context)
    runner = web.AppRunner(
        server.application(),
        handler_cancellation=True,
        access_log=None,
        shutdown_timeout=CLOSE_TIMEOUT_S,
    )
    await runner.setup()
    try:
        site = web.TCPSite(
            runner, settings.address, settings.port, backlog=1024, ssl_context=_tls(settings)
        )
        await site.start()
        stopping = asyncio.Event()
        for number in (signal.SIGTERM, signal.SIGINT):
            asyncio.get_running_loop().add_signal_handler(number, stopping.set)
        async with asyncio.TaskGroup() as group:
            driving = group.create_task(server.engine.drive())
            loading = group.create_task(load(server))
            await stopping.wait()
            driving.cancel()
            loading.cancel()
    finally:
        await runner.cleanup()


def _tls(settings: Settings) -> ssl.SSLContext | None:
    """What uvicorn makes of the two files."""
    if settings.tls is None:
        return None
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    try:
        context.load_cert_chain(*settings.tls)
    except OSError as error:
        raise CannotServe(f"{type(error).__name__}: {error}") from None
    return context


async def load(server: Server) -> None:
    """Take as long as the weights need; healthy afterwards."""
    settings = server.settings
    seconds = load_seconds(settings, server.shape)
    say(f"INFO Starting to load model {settings.model}... ({seconds:.1f} s)")
    await asyncio.sleep(seconds)
    mark = mark_of(settings)
    if mark is not None:
        mark.parent.mkdir(parents=True, exist_ok=True)
        mark.touch()
    server.is_ready = True
    say(f"INFO GPU KV cache size: {server.engine.batch.speed.kv_tokens:,} tokens")
    say(f"INFO Application startup complete on {settings.address}:{settings.port}.")


def main() -> None:
    """Parse, serve, exit."""
    settings = parse(sys.argv[1:], os.environ)
    if settings.is_real_llama_cpp and settings.dialect == "llama.cpp":
        from autoscaler.emulator.engine.real_llama_cpp import serve_for_real

        serve_for_real(settings)
        return
    try:
        with contextlib.suppress(KeyboardInterrupt):
            asyncio.run(serve(settings))
    except (CannotServe, OSError) as error:
        say(f"ERROR {error}")
        sys.exit(1)


if __name__ == "__main__":
    main()

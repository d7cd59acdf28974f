"""Command lines of the real servers, and what an engine makes of its GPU."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
from collections.abc import Sequence
from pathlib import Path

import pytest

from autoscaler.emulator.engine.__main__ import CannotServe, load_seconds, plan
from autoscaler.emulator.engine.commandline import Settings, parse
from autoscaler.emulator.engine.hub import model_shape
from autoscaler.emulator.engine.profiles import gpu_profiles
from autoscaler.emulator.engine.speed import roofline


@pytest.mark.parametrize(
    ("dialect", "words", "expected"),
    [
        ("vllm", "--model Q/x --served-model-name a b --port 9000 -tp 2", ("Q/x", 9000, 2, 256)),
        ("vllm", "Q/x --max-num-seqs=32 --trust-remote-code", ("Q/x", 8000, 1, 32)),
        ("vllm", "vllm serve Q/x --enable-prefix-caching --seed 3", ("Q/x", 8000, 1, 256)),
        (
            "vllm",
            "python3 -m vllm.entrypoints.openai.api_server --model Q/x --tensor-parallel-size 4",
            ("Q/x", 8000, 4, 256),
        ),
        (
            "sglang",
            "python3 -m sglang.launch_server --model-path Q/x --tp 2 --max-running-requests 48",
            ("Q/x", 30000, 2, 48),
        ),
        ("llama.cpp", "-hf Q/x --alias chat -np 4 -c 8192 --metrics", ("Q/x", 8080, 1, 4)),
        ("tei", "--model-id Q/x --port 80", ("Q/x", 80, 1, 512)),
        ("infinity", "v2 --model-id Q/x --port 7998", ("Q/x", 7998, 1, 32)),
    ],
)
def test_each_servers_own_arguments_are_understood(
    dialect: str, words: str, expected: tuple[str, int, int, int]
) -> None:
    settings = parse(["--dialect", dialect, "--", *words.split()], {})

    found = (settings.model, settings.port, settings.tensor_parallel, settings.max_num_seqs)
    assert found == expected


def test_names_contexts_and_ports_mean_what_they_mean_there() -> None:
    llama = parse(["--dialect", "llama.cpp", "--", "-np", "4", "-c", "8192", "-a", "chat"], {})
    vllm = parse(
        ["--published", "9001:8000", "--", "--max-model-len", "8192"], {"VLLM_API_KEY": "k"}
    )

    assert (llama.served_names, llama.max_model_len) == (("chat",), 2048)  # a slot's share
    assert (vllm.port, vllm.max_model_len, vllm.api_key) == (9001, 8192, "k")
    assert parse(["--", "--host", "0.0.0.0"], {}).address == "127.0.0.1"
    assert parse(["--address", "127.9.9.9", "--", "--host", "0.0.0.0"], {}).address == "127.9.9.9"


def engine(*own: str, words: Sequence[str] = ()) -> Settings:
    return parse([*own, "--", *words], {})


@pytest.mark.parametrize(
    ("own", "words", "said"),
    [
        ("--gpu l40s", "Qwen/Qwen3-32B", "out of memory"),
        ("--gpu l40s", "Qwen/Qwen3-8B --max-model-len 400000", "max seq len"),
        ("--gpu l40s --gpus 2", "Qwen/Qwen3-8B -tp 4", "larger than the number of available GPUs"),
        ("--gpu l40s", "meta-llama/Llama-3.1-8B-Instruct", "gated repo"),
        ("--gpu tpu", "Qwen/Qwen3-8B", "unknown GPU"),
    ],
)
def test_what_cannot_be_served_says_why(own: str, words: str, said: str) -> None:
    settings = engine(*own.split(), words=words.split())

    with pytest.raises(CannotServe, match=said):
        plan(settings, model_shape(settings.model))


def test_four_a100_serve_70b_and_one_l40s_serves_a_quantized_32b() -> None:
    big = engine(
        *("--gpu", "a100-80gb-pcie", "--gpus", "4"),
        words=["demo/unknown", "-tp", "4", "--max-model-len", "8192"],
    )
    speed = roofline(
        model_shape("meta-llama/Llama-3.3-70B-Instruct"),
        gpu_profiles()["a100-80gb-pcie"],
        tensor_parallel=4,
    )

    assert plan(big, model_shape("demo/unknown"))[1] == 8192
    assert speed.kv_tokens > 100_000
    small = engine("--gpu", "l40s", words=["Qwen/Qwen3-32B-AWQ", "--max-model-len", "8192"])
    assert plan(small, model_shape(small.model))[0].kv_tokens > 50_000


def test_faster_memory_decodes_faster_and_more_compute_prefills_faster() -> None:
    shape = model_shape("Qwen/Qwen3-8B")
    l40s = roofline(shape, gpu_profiles()["l40s"])
    a100 = roofline(shape, gpu_profiles()["a100-80gb-pcie"])
    pair = roofline(shape, gpu_profiles()["l40s"], tensor_parallel=2)

    assert a100.step_s(8, 8000) < l40s.step_s(8, 8000)
    assert l40s.prefill_s < 2 * a100.prefill_s
    assert l40s.step_s(64, 64_000) > l40s.step_s(1, 1000)
    assert l40s.step_s(8, 8000) / 2 < pair.step_s(8, 8000) < l40s.step_s(8, 8000)
    # 16.4 GB of bf16 weights at 68 % of 864 GB/s
    assert l40s.weights_s == pytest.approx(0.0279, rel=0.01)
    assert roofline(shape, gpu_profiles()["l40s"], factor=10.0).step_s(8, 8000) == pytest.approx(
        l40s.step_s(8, 8000) / 10
    )


def test_loading_takes_the_weights_time_once(tmp_path: Path) -> None:
    settings = engine(
        *("--time-factor", "60", "--models-directory", str(tmp_path)), words=["Qwen/Qwen3-8B"]
    )
    shape = model_shape(settings.model)

    assert load_seconds(settings, shape) == pytest.approx((16.38e9 * 8 / 1e9 + 30) / 60)
    assert load_seconds(engine("--load-seconds", "2"), shape) == 2.0


def test_the_process_serves_until_sigterm_and_gives_up_with_an_exit_code() -> None:
    command = [sys.executable, "-m", "autoscaler.emulator.engine", "--load-seconds", "0"]
    with subprocess.Popen(
        [*command, "--address", "127.0.0.1", "--", "--port", "0"],
        stderr=subprocess.PIPE,
        text=True,
        env=os.environ | {"PYTHONDONTWRITEBYTECODE": "1"},
    ) as serving:
        assert serving.stderr is not None
        while "startup complete" not in serving.stderr.readline():
            assert serving.poll() is None
        serving.send_signal(signal.SIGTERM)
        assert serving.wait(timeout=10) == 0

    failing = subprocess.run(
        [*command, "--gpu", "l4", "--", "--model", "Qwen/Qwen3-32B"],
        capture_output=True,
        text=True,
        timeout=20,
        check=False,
    )

    assert (failing.returncode, "out of memory" in failing.stderr) == (1, True)

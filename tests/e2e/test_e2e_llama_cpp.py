"""The real llama.cpp server on a machine without a GPU, from the rented machine to the client's answer."""

from __future__ import annotations

import asyncio
from importlib import resources

import pytest

from tests.e2e.world import World
from tests.observe.parts import need_llama_cpp

pytestmark = pytest.mark.e2e


async def test_a_real_llama_cpp_server_answers_a_clients_request(bare: World) -> None:
    need_llama_cpp()
    await asyncio.gather(bare.start_emulator("--engine", "llama.cpp"), bare.start_gateway())
    prices = resources.files("autoscaler.demo").joinpath("prices-cpu.toml").read_text()
    (bare.directory / "prices.toml").write_text(prices)
    bare.config_edits = {"cloud": {"prices_file": "prices.toml"}}
    own = {"concurrency": 4, "requests_per_s": 4.0}
    bare.write_policy(
        model="demo/tiny",
        engine="llama.cpp",
        facts={"params_b": 0.01, "layers": 2, "hidden": 64, "kv_heads": 2, "head_dim": 32},
        server={"max_model_len": 2048, "max_num_seqs": 4},
        hardware={"gpus": False, "types": ["c1a.*"], "capacity": {"c1a.2x": own, "c1a.4x": own}},
        nodes={"min": 0, "max": 1},
    )
    await bare.start_daemon()

    answer = await bare.ask("demo/tiny", stream=True, tokens=24)

    assert answer.whole, (answer, bare.logs())
    assert answer.headers["x-autoscaler-cold-start"]
    assert answer.tokens == 24
    (node,) = await bare.ready()
    async with bare.session.get(f"{node['endpoints'][0]}/metrics") as page:
        assert "llamacpp:" in await page.text()
    await bare.is_empty()

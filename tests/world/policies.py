"""A cheap model: what the policies of tests and benchmarks have in common."""

from __future__ import annotations

from tests.world.files import Table

CHEAP: Table = {
    "schema": 1,
    "engine": "vllm",
    "facts": {"params_b": 8.03, "layers": 32, "hidden": 4096, "kv_heads": 8, "head_dim": 128},
    "typical": {"prompt_tokens": 200, "output_tokens": 50},
    "server": {"max_model_len": 8192},
    "hardware": {"types": ["*.1x"]},
    "spread": {"survive_node": 0},
}

# A model that falls back to zero within seconds.
SHORT_WINDOWS: Table = {
    "scaling": {
        "demand_window": "3s",
        "work_window": "30s",
        "peak_memory": "3s",
        "drain_backlog_within": "8s",
        "panic_after": "2s",
        "panic_hold": "3s",
        "stabilization": "2s",
        "zero_after": "2s",
        "boot_prior": "5s",
    },
    "signals": {"window": "3s", "quantile_window": "20s", "min_observations": 10},
}

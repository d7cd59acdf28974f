"""The real llama.cpp server in place of the emulated engine: its code, its speed, random weights.

`xllamacpp` is llama.cpp's own C++ server in a Python process; `gguf` writes it a tiny model of two
layers with a vocabulary of bytes. Both come with the extra `demo`. What it says is noise; that it
queues, batches, streams and measures is real.
"""

from __future__ import annotations

import signal
import sys
import tempfile
from pathlib import Path
from types import ModuleType

from autoscaler.emulator.engine.commandline import Settings

LAYERS = 2
WIDTH = 64
HEADS = 4
FEED_FORWARD = 128
TRAINED_CONTEXT = 4096
DEFAULT_CONTEXT = 512
UNKNOWN, CONTROL, BYTE = 2, 3, 6  # token types of llama.cpp's vocabulary


def serve_for_real(settings: Settings) -> None:
    """Serve until SIGTERM. Ends the process where the extra is missing."""
    try:
        import gguf
        import xllamacpp
    except ImportError as error:
        sys.exit(f"ERROR {error}: the real llama.cpp server needs `pip install .[demo]`")
    stops = {signal.SIGTERM, signal.SIGINT}
    signal.pthread_sigmask(signal.SIG_BLOCK, stops)  # before its threads inherit the mask
    with tempfile.TemporaryDirectory(prefix="gguf-") as directory:
        path = Path(directory) / "random.gguf"
        write_random_model(gguf, path)
        server = start(xllamacpp, settings, path)
        print(f"INFO llama.cpp serves on {settings.address}:{settings.port}", file=sys.stderr)
        signal.sigwait(stops)
        del server


def start(xllamacpp: ModuleType, settings: Settings, path: Path) -> object:
    """Start the C++ server; it runs for as long as what is returned lives."""
    parameters = xllamacpp.CommonParams()
    parameters.model.path = str(path)
    parameters.hostnames = [settings.address]
    parameters.port = settings.port
    parameters.n_parallel = settings.max_num_seqs
    parameters.n_ctx = (settings.max_model_len or DEFAULT_CONTEXT) * settings.max_num_seqs
    parameters.cpuparams.n_threads = 1
    parameters.endpoint_metrics = settings.has_metrics
    parameters.model_alias = list(settings.served_names)
    if settings.api_key:
        parameters.api_keys = [settings.api_key]
    return xllamacpp.Server(parameters)


def write_random_model(gguf: ModuleType, path: Path) -> None:
    """Write a llama of two layers, its weights random but the same each time."""
    import numpy

    random = numpy.random.default_rng(7)
    writer = gguf.GGUFWriter(str(path), "llama")
    writer.add_block_count(LAYERS)
    writer.add_context_length(TRAINED_CONTEXT)
    writer.add_embedding_length(WIDTH)
    writer.add_feed_forward_length(FEED_FORWARD)
    writer.add_head_count(HEADS)
    writer.add_head_count_kv(HEADS)
    writer.add_rope_dimension_count(WIDTH // HEADS)
    writer.add_layer_norm_rms_eps(1e-5)
    tokens = [b"<unk>", b"<s>", b"</s>", *(f"<0x{byte:02X}>".encode() for byte in range(256))]
    types = [UNKNOWN, CONTROL, CONTROL, *([BYTE] * 256)]
    writer.add_tokenizer_model("llama")
    writer.add_token_list(tokens)
    writer.add_token_scores([0.0] * len(tokens))
    writer.add_token_types(types)
    writer.add_bos_token_id(1)
    writer.add_eos_token_id(2)
    writer.add_unk_token_id(0)
    shapes = {"token_embd.weight": (len(tokens), WIDTH), "output.weight": (len(tokens), WIDTH)}
    for layer in range(LAYERS):
        for name in ("attn_q", "attn_k", "attn_v", "attn_output"):
            shapes[f"blk.{layer}.{name}.weight"] = (WIDTH, WIDTH)
        shapes[f"blk.{layer}.ffn_gate.weight"] = (FEED_FORWARD, WIDTH)
        shapes[f"blk.{layer}.ffn_up.weight"] = (FEED_FORWARD, WIDTH)
        shapes[f"blk.{layer}.ffn_down.weight"] = (WIDTH, FEED_FORWARD)
    for name, shape in shapes.items():
        writer.add_tensor(name, (random.standard_normal(shape) * 0.05).astype(numpy.float32))
    norms = ["output_norm.weight"]
    norms += [f"blk.{n}.{kind}_norm.weight" for n in range(LAYERS) for kind in ("attn", "ffn")]
    for name in norms:
        writer.add_tensor(name, numpy.ones(WIDTH, dtype=numpy.float32))
    writer.write_header_to_file()
    writer.write_kv_data_to_file()
    writer.write_tensors_to_file()
    writer.close()

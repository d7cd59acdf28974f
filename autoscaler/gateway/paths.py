"""The paths by which engines generate, embed, rank and count: what a client may POST to, and nothing besides.

Engines serve their administration on the same port (adapters, slots, caches, weights, pulling and deleting models), and
each release adds to it, so that a list of what is forbidden is always one behind.
"""

from __future__ import annotations

INFERENCE = frozenset(
    (
        # OpenAI's own
        *("/v1/chat/completions", "/v1/completions", "/v1/embeddings", "/v1/responses"),
        *("/v1/audio/speech", "/v1/images/generations", "/v1/moderations"),
        # Anthropic's and Cohere's forms, which engines speak too
        *("/v1/messages", "/v1/messages/count_tokens", "/v1/rerank", "/v2/rerank", "/v2/embed"),
        # vLLM and SGLang
        *("/v1/score", "/v1/classify", "/v1/tokenize", "/v1/detokenize", "/score", "/classify"),
        *("/pooling", "/rerank", "/tokenize", "/detokenize", "/generate", "/encode"),
        # llama.cpp
        *("/chat/completions", "/completions", "/completion", "/embeddings", "/embedding"),
        *("/infill", "/reranking", "/v1/reranking", "/apply-template"),
        # Text Embeddings Inference, Text Generation Inference
        *("/embed", "/embed_all", "/embed_sparse", "/predict", "/similarity", "/generate_stream"),
        # Ollama
        *("/api/chat", "/api/generate", "/api/embed", "/api/embeddings"),
    )
)

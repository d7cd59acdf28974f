"""Whether a model server really serves: healthy, the model under its name, one request answered with sense.

Health proves little: an engine answers 200 while its weights are missing or its GPU computes NaN. The request does.
"""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from autoscaler.errors import NodeUnreachable, VerificationFailed
from autoscaler.nodes.remote_text import printable
from autoscaler.nodes.verify_http import Answer, Asker, PortClosed, ask
from autoscaler.policy import Engine, Policy

HEALTH_TIMEOUT_S = 5.0
MODELS_TIMEOUT_S = 10.0
NOT_FOUND = frozenset({404, 405, 501})
NO_CHAT = NOT_FOUND | {400, 422}  # a base model has no chat template
BUSY = frozenset({429, 502, 503, 504})
_SHOWN = 200


@dataclass(frozen=True, slots=True)
class Speech:
    """One answered request. `tokens_per_s` is None for embeddings."""

    tokens_per_s: float | None


async def check_health(session: Asker, url: str, policy: Policy) -> None:
    """See that a server says it is up.

    Raises:
        NodeUnreachable: it does not, or cannot be reached from here.
    """
    path = policy.server.health_path
    answer = await ask(session, url + path, timeout_s=HEALTH_TIMEOUT_S)
    if answer.status != 200:
        raise NodeUnreachable(f"{url}: {path} answers {answer.status}")


async def check_served_name(session: Asker, url: str, policy: Policy) -> None:
    """See that the server lists the model under the policy's name.

    Raises:
        VerificationFailed: it lists others.
        NodeUnreachable: no answer.
    """
    answer = await ask(session, f"{url}/v1/models", timeout_s=MODELS_TIMEOUT_S)
    if answer.status in BUSY:
        raise NodeUnreachable(f"{url}: /v1/models answers {answer.status}")
    wanted = policy.served_name
    if answer.status in NOT_FOUND and policy.engine is Engine.CUSTOM:
        return  # its own API: the request decides
    if answer.status in NOT_FOUND and policy.engine is Engine.EMBEDDING:
        wanted = policy.server.weights or policy.model
        answer = await ask(session, f"{url}/info", timeout_s=MODELS_TIMEOUT_S)
        names = [answer.json(f"{url}/info").get("model_id")]
    else:
        entries = answer.json(f"{url}/v1/models").get("data")
        if answer.status != 200 or not isinstance(entries, list):
            raise VerificationFailed(f"{url}: /v1/models answers {answer.status} and no list")
        names = [entry.get("id") for entry in entries if isinstance(entry, dict)]
    if wanted not in names:
        shown = printable(", ".join(str(name) for name in names))[:_SHOWN]
        raise VerificationFailed(f"{url}: serves {shown or 'nothing'}, not {wanted}")


async def try_request(session: Asker, url: str, policy: Policy) -> Speech:
    """Have one real request answered.

    Raises:
        VerificationFailed: answered with an error or with nonsense, too late, or too slowly.
        NodeUnreachable: busy or gone.
    """
    timeout_s = policy.deadlines.warm_up.total_seconds()
    try:
        if policy.engine is Engine.EMBEDDING:
            return await _embed(session, url, policy, timeout_s)
        return await _generate(session, url, policy, timeout_s)
    except NodeUnreachable as exc:
        if isinstance(exc.__cause__, TimeoutError) and not isinstance(exc, PortClosed):
            raise VerificationFailed(
                f"{url}: takes a request and answers nothing within {timeout_s:.0f} s"
            ) from exc
        raise


async def _generate(session: Asker, url: str, policy: Policy, timeout_s: float) -> Speech:
    common: dict[str, object] = {
        "model": policy.served_name,
        "max_tokens": policy.verify.max_tokens,
        "temperature": 0,
        "stream": False,
    }
    messages = [{"role": "user", "content": policy.verify.prompt}]
    path = "/v1/chat/completions"
    answer = await ask(
        session, url + path, timeout_s=timeout_s, payload={**common, "messages": messages}
    )
    if answer.status in NO_CHAT:
        path = "/v1/completions"
        answer = await ask(
            session,
            url + path,
            timeout_s=timeout_s,
            payload={**common, "prompt": policy.verify.prompt},
        )
    if answer.status in NOT_FOUND and policy.engine is Engine.CUSTOM:
        return await _embed(session, url, policy, timeout_s)
    tokens = count_tokens(_good(answer, url + path), policy, url + path)
    speed = tokens / max(answer.seconds, 1e-6)
    if speed < policy.verify.min_tokens_per_s:
        raise VerificationFailed(
            f"{url}: {speed:.1f} tokens/s, verify.min_tokens_per_s is "
            f"{policy.verify.min_tokens_per_s:g}"
        )
    return Speech(speed)


async def _embed(session: Asker, url: str, policy: Policy, timeout_s: float) -> Speech:
    path = f"{url}/v1/embeddings"
    payload = {"model": policy.served_name, "input": policy.verify.prompt}
    answer = await ask(session, path, timeout_s=timeout_s, payload=payload)
    check_embedding(_good(answer, path), path)
    return Speech(None)


def _good(answer: Answer, what: str) -> Mapping[str, Any]:
    """The JSON of a 200; other codes by what they mean."""
    if answer.status in BUSY:
        raise NodeUnreachable(f"{what}: answers {answer.status}")
    if answer.status != 200:
        said = printable(answer.body[:_SHOWN].decode("utf-8", "replace"))
        raise VerificationFailed(f"{what}: answers {answer.status}: {said}")
    return answer.json(what)


def count_tokens(body: Mapping[str, Any], policy: Policy, what: str) -> int:
    """How many tokens a completion has, once its form makes sense.

    Raises:
        VerificationFailed: no choice, another model, no text, no token, or the text of an engine that computes NaN.
    """
    model = body.get("model")
    if model != policy.served_name:
        raise VerificationFailed(f"{what}: answered by {printable(str(model))[:_SHOWN]!r}")
    choices = body.get("choices")
    choice = choices[0] if isinstance(choices, list) and choices else None
    if not isinstance(choice, dict):
        raise VerificationFailed(f"{what}: an answer without choices")
    usage = body.get("usage")
    tokens = usage.get("completion_tokens") if isinstance(usage, dict) else None
    if type(tokens) is not int or not 1 <= tokens <= 2 * policy.verify.max_tokens + 16:
        raise VerificationFailed(f"{what}: an answer of {printable(str(tokens))[:20]} tokens")
    text = _text_of(choice)
    if text is None or (not text and choice.get("finish_reason") != "length"):
        raise VerificationFailed(f"{what}: an answer without text")
    if len(text) >= 6 and set(text) == {"!"}:
        # token 0 over and over: what vLLM says when its logits are NaN
        raise VerificationFailed(f"{what}: the engine computes nonsense: {text[:20]!r}")
    return tokens


def _text_of(choice: Mapping[str, Any]) -> str | None:
    message = choice.get("message")
    places = message if isinstance(message, dict) else choice
    for key in ("content", "reasoning_content", "reasoning", "text"):
        if isinstance(text := places.get(key), str) and text:
            return text
    return "" if any(isinstance(places.get(key), str) for key in ("content", "text")) else None


def check_embedding(body: Mapping[str, Any], what: str) -> None:
    """See that an embedding is a vector of finite numbers, not all zero.

    Raises:
        VerificationFailed: it is not.
    """
    data = body.get("data")
    first = data[0] if isinstance(data, list) and data else None
    vector = first.get("embedding") if isinstance(first, dict) else None
    if not isinstance(vector, list) or not vector:
        raise VerificationFailed(f"{what}: an answer without an embedding")
    numbers = [x for x in vector if isinstance(x, int | float) and not isinstance(x, bool)]
    if len(numbers) != len(vector) or not all(map(math.isfinite, numbers)) or not any(numbers):
        raise VerificationFailed(f"{what}: an embedding that is no vector of numbers")

"""Any Prometheus text page, by the policy's `mapping`: our name → an expression of the page's names.

    mapping = { waiting = 'tgi_queue_size', running = 'tgi_batch_current_size', arrivals = 'tgi_request_count' }

An expression is one or more series added with `+`, each with labels it must carry in braces, the whole optionally
`* factor` to bring milliseconds to seconds: `'a_ms * 0.001'`, `'done_total{code="200"} + done_total{code="500"}'`.
A histogram is named without `_bucket`. Nothing else is understood, and nothing is evaluated.
"""

from __future__ import annotations

import difflib
import re
from collections.abc import Mapping

from autoscaler.errors import ConfigError
from autoscaler.observe import dialect as d
from autoscaler.observe.dialect import Dialect, Selector, Sum

KEYS = (*d.GAUGES, *d.COUNTERS, *d.HISTOGRAMS)

# Text Generation Inference, in the counters' own units; it has no first-token histogram.
TGI_MAPPING = {
    "waiting": "tgi_queue_size",
    "running": "tgi_batch_current_size",
    "arrivals": "tgi_request_count",
    "itl": "tgi_request_mean_time_per_token_duration",
    "queue": "tgi_request_queue_duration",
}
# Text Embeddings Inference. `te_queue_size` counts inputs; an answer has one token, so to speak: its first.
TEI_MAPPING = {
    "waiting": "te_queue_size",
    "arrivals": "te_request_count",
    "ttft": "te_request_duration",
    "queue": "te_request_queue_duration",
}

_NAME = r"[a-zA-Z_:][a-zA-Z0-9_:]*"
_TERM = re.compile(rf"\s*(?P<name>{_NAME})\s*(?:\{{(?P<labels>[^{{}}]*)\}})?\s*")
_LABEL = re.compile(r'\s*([a-zA-Z_][a-zA-Z0-9_]*)\s*=\s*"((?:[^"\\]|\\.)*)"\s*(?:,\s*|$)')
_FACTOR = re.compile(r"\*\s*(\d+(?:\.\d+)?(?:[eE]-?\d+)?)\s*$")


def mapped(name: str, mapping: Mapping[str, str]) -> Dialect:
    """Build the dialect of a mapping.

    Raises:
        ConfigError: an unknown key, or an expression that is not of the form above.
    """
    for key in mapping:
        if key not in KEYS:
            near = difflib.get_close_matches(key, KEYS, n=1)
            hint = f"; did you mean {near[0]!r}?" if near else ""
            raise ConfigError(f"mapping.{key}: unknown; allowed: {', '.join(KEYS)}{hint}")
    return Dialect(name, {key: (parse_sum(key, text),) for key, text in mapping.items()})


def parse_sum(key: str, text: str) -> Sum:
    """Read an expression.

    Raises:
        ConfigError: it is not of the form above.
    """
    rest, factor = text, 1.0
    scaled = _FACTOR.search(text)
    if scaled is not None:
        rest, factor = text[: scaled.start()], float(scaled[1])
    selectors = []
    position = 0
    while True:
        term = _TERM.match(rest, position)
        if term is None:
            raise _wrong(key, text)
        selectors.append(Selector(term["name"], _labels(key, text, term["labels"]), factor))
        position = term.end()
        if position == len(rest):
            return tuple(selectors)
        if rest[position] != "+":
            raise _wrong(key, text)
        position += 1


def _labels(key: str, text: str, inside: str | None) -> tuple[tuple[str, str], ...]:
    if inside is None or not inside.strip():
        return ()
    labels, position = [], 0
    while position < len(inside):
        label = _LABEL.match(inside, position)
        if label is None:
            raise _wrong(key, text)
        labels.append((label[1], re.sub(r"\\(.)", r"\1", label[2])))
        position = label.end()
    return tuple(labels)


def _wrong(key: str, text: str) -> ConfigError:
    return ConfigError(
        f"mapping.{key}: {text!r} is not a sum of series: write "
        "'name', 'name{label=\"value\"}', 'a + b' or 'a_ms * 0.001'"
    )

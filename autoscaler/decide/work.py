"""The mix of requests: how long prompts and answers are, as measured, or as the policy assumes until then."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

from autoscaler.domain.signals import FigureName, Signals
from autoscaler.policy import Engine, Policy

_PRIOR_REQUESTS = 20.0  # the policy's typical request weighs as much as this many measured ones
_LONGEST_STEP_S = 60.0  # a gap in the history does not count as traffic
# an enum's member takes ten times as long to look up as a name
_ARRIVALS, _WAITING, _RUNNING = FigureName.ARRIVALS, FigureName.WAITING, FigureName.RUNNING
_PROMPT, _OUTPUT = FigureName.PROMPT_TOKENS, FigureName.OUTPUT_TOKENS


@dataclass(frozen=True, slots=True)
class Work:
    """A mean request: tokens of its prompt and of its answer. An embedding has no answer."""

    prompt_tokens: float
    output_tokens: float


def typical_work(policy: Policy) -> Work:
    """What the policy says a request is like."""
    output = 0 if policy.engine is Engine.EMBEDDING else policy.typical.output_tokens
    return Work(float(policy.typical.prompt_tokens), float(output))


def observed_work(policy: Policy, history: Sequence[Signals]) -> Work:
    """The mean request of `scaling.work_window`, drawn towards the policy's typical one while few were seen.

    Passes in which more waited than ran are left out: the engines' token counters then show what they can do, not
    what is asked of them (autoscaling's "censoring"), and requests would look shorter than they are.

    Args:
        history: oldest first; what is older than the window before its last element is ignored.
    """
    prior = typical_work(policy)
    if not history:
        return prior
    since = history[-1].at - policy.scaling.work_window
    requests = _PRIOR_REQUESTS
    prompt = prior.prompt_tokens * _PRIOR_REQUESTS
    output = prior.output_tokens * _PRIOR_REQUESTS
    before = None
    for signals in history:
        if signals.at < since:
            continue
        step_s = 15.0 if before is None else (signals.at - before).total_seconds()
        before = signals.at
        rates = _rates(signals)
        if rates is None:
            continue
        step_s = max(0.0, min(step_s, _LONGEST_STEP_S))
        requests += rates[0] * step_s
        prompt += rates[1] * step_s
        output += rates[2] * step_s
    if policy.engine is Engine.EMBEDDING:
        output = 0.0
    return Work(max(1.0, prompt / requests), output / requests)


def _rates(signals: Signals) -> tuple[float, float, float] | None:
    """Requests, prompt tokens and output tokens per second of one pass, None when they do not show demand."""
    arrivals = prompt = output = None
    waiting = running = 0.0
    for name, figure in signals.figures:  # looked through once: sixty of them in each pass
        if name is _ARRIVALS:
            arrivals = figure.value
        elif name is _PROMPT:
            prompt = figure.value
        elif name is _OUTPUT:
            output = figure.value
        elif name is _WAITING:
            waiting = figure.value
        elif name is _RUNNING:
            running = figure.value
    if not arrivals or prompt is None or output is None:
        return None
    if waiting > running or min(arrivals, prompt, output) < 0 or prompt == 0:
        return None
    return arrivals, prompt, output

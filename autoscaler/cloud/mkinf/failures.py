"""What a refusal means: a status and an error body become the failure that says what to do next.

mkinf documents no error bodies. Four shapes are read, and plain text or HTML from a gateway:
Crusoe's two (`code` as a word or as a number in text, the word perhaps in `message`), and mkinf's
own two (`status` and `message`; `message` and a secret billing `url`).
"""

from __future__ import annotations

import email.utils
import re
from collections.abc import Mapping
from dataclasses import dataclass
from datetime import datetime
from typing import Final

import orjson

from autoscaler.cloud.mkinf.endpoints import VM_CREATE, Endpoint, Mark
from autoscaler.cloud.mkinf.transport import Response
from autoscaler.errors import (
    AuthFailed,
    AutoscalerError,
    CloudUnavailable,
    EndpointMissing,
    Forbidden,
    NotFound,
    OutcomeUnknown,
    OutOfStock,
    PaymentRequired,
    QuotaExceeded,
    Rejected,
)

_STOCK: Final = re.compile(
    r"out[ _-]?of[ _-]?(stock|capacity)|sold[ _-]?out"
    r"|(insufficient|no|not enough|lack of)[ _-](more[ _-]|available[ _-])?(capacity|stock)",
    re.IGNORECASE,
)
_QUOTA: Final = re.compile(r"quota", re.IGNORECASE)
_LONGEST_TEXT: Final = 300


@dataclass(frozen=True, slots=True)
class Complaint:
    """What an error body says.

    Attributes:
        is_api: the body is one of the API's forms; else a gateway or a stranger answered.
    """

    code: str
    message: str
    is_api: bool

    @property
    def text(self) -> str:
        return ": ".join(part for part in (self.code, self.message) if part) or "no reason given"


def read_complaint(body: bytes) -> Complaint:
    """Read an error body of any of the known forms. Never fails."""
    try:
        document = orjson.loads(body) if body else None
    except orjson.JSONDecodeError:
        document = None
    if isinstance(document, dict):
        inner = document.get("error")
        fields = inner if isinstance(inner, dict) else document
        code = _text(fields.get("code"))
        message = _text(fields.get("message")) or _text(inner) or _text(fields.get("reason"))
        if code or message:
            return Complaint(code, message, is_api=True)
    return Complaint("", _gateway_text(body), is_api=False)


def failure_of(
    endpoint: Endpoint, response: Response, now: datetime, *, repeatable: bool
) -> AutoscalerError:
    """Turn a refusal into the failure to raise.

    Where the call is not `repeatable`, an answer that is none makes its outcome unknown. 401 is
    `AuthFailed` here; whether a fresh token may help is the caller's to try first.
    """
    complaint = read_complaint(response.body)
    said = f"{endpoint.label}: {response.status} {complaint.text}"
    match response.status:
        case 401:
            return AuthFailed(
                f"{said}. The credential is refused: replace it (the file is read again)"
            )
        case 402:
            return PaymentRequired(
                f"{said}. The account has no valid card: `autoscaler cloud billing` has the link"
            )
        case 403 if endpoint.method == "GET" and not _speaks_of_quota_or_stock(complaint):
            return AuthFailed(f"{said}. The credential may not read this")
        case 403 if not _speaks_of_quota_or_stock(complaint):
            return Forbidden(f"{said}. The credential may not do this: give it a role that may")
        case 404:
            return _absent(endpoint, complaint, said, repeatable)
        case 405 | 501:
            return _missing(endpoint, said)
        case 409 if endpoint == VM_CREATE and not _speaks_of_quota_or_stock(complaint):
            # A name is sent once, so what has it already is our own: somebody between us sent the call twice.
            return OutcomeUnknown(said)
        case 408 | 425 | 429:
            return CloudUnavailable(said, retry_after_s=retry_after_s(response.headers, now))
        case status if status >= 500:
            return _no_answer(repeatable, said, retry_after_s(response.headers, now))
        case status if status >= 400:
            return refusal(complaint.code, complaint.message, said)
        case _:
            return _no_answer(repeatable, f"{said}. Redirects are not followed")


def refusal(code: str, message: str, said: str) -> AutoscalerError:
    """Classify a refusal by its words: quota, stock, or the request itself."""
    words = f"{code} {message}"
    if _QUOTA.search(words):
        return QuotaExceeded(said)
    if _STOCK.search(words):
        return OutOfStock(said)
    return Rejected(said)


def retry_after_s(headers: Mapping[str, str], now: datetime) -> float | None:
    """Read `Retry-After`, in seconds or as a date. None when absent or nonsense."""
    text = headers.get("retry-after", "").strip()
    if re.fullmatch(r"\d{1,9}(\.\d{1,9})?", text):
        return float(text)
    try:
        return max(0.0, (email.utils.parsedate_to_datetime(text) - now).total_seconds())
    except (ValueError, TypeError):
        return None


def clean(text: str) -> str:
    """Make a stranger's text fit for a log and a terminal: one line, no control characters, short."""
    line = " ".join(text.split())
    line = "".join(letter if letter.isprintable() else "�" for letter in line)
    return line if len(line) <= _LONGEST_TEXT else line[: _LONGEST_TEXT - 1] + "…"


def _speaks_of_quota_or_stock(complaint: Complaint) -> bool:
    words = f"{complaint.code} {complaint.message}"
    return bool(_QUOTA.search(words) or _STOCK.search(words))


def _absent(
    endpoint: Endpoint, complaint: Complaint, said: str, repeatable: bool
) -> AutoscalerError:
    if not complaint.is_api:
        # A gateway's own page: it says nothing about the thing we asked for.
        return _no_answer(repeatable, f"{said} (not the API's own answer)")
    if endpoint.of_resource:
        return NotFound(said)
    if endpoint.mark is Mark.INFERRED:
        return _missing(endpoint, said)
    if not endpoint.is_project_scoped:
        return NotFound(said)
    return NotFound(f"{said}. Is the project id right? `autoscaler cloud projects` lists yours")


def _missing(endpoint: Endpoint, said: str) -> EndpointMissing:
    return EndpointMissing(
        f"{said}. mkinf has no {endpoint.name!r} endpoint there ({endpoint.mark} for v0.1)."
        f" Instead: {endpoint.fallback}"
    )


def _no_answer(repeatable: bool, said: str, wait_s: float | None = None) -> AutoscalerError:
    if repeatable:
        return CloudUnavailable(said, retry_after_s=wait_s)
    return OutcomeUnknown(said)


def _text(value: object) -> str:
    return clean(str(value)) if isinstance(value, str | int) else ""


def _gateway_text(body: bytes) -> str:
    text = body[:2000].decode("utf-8", errors="replace")
    if title := re.search(r"<title>(.*?)</title>", text, re.IGNORECASE | re.DOTALL):
        return clean(f"a page titled {title[1]!r}")
    return clean(re.sub(r"<[^>]*>", " ", text))[:120]

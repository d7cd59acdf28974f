"""Verified TLS to nodes: the context that trusts our own authority alone, and a refusal in words."""

from __future__ import annotations

import ssl
from collections.abc import Mapping

# OpenSSL's X509_V_ERR_… of x509_vfy.h
_WHY: Mapping[int, str] = {
    9: "is not valid yet: a clock is wrong, here or there",
    10: "has expired",
    18: "is self-signed, and not by this deployment's authority",
    19: "comes from another authority than this deployment's",
    20: "comes from another authority than this deployment's",
    21: "comes from another authority than this deployment's",
    62: "is another machine's: it does not name this node",
    64: "is another machine's: it does not name this address",
}


def trusting(authority_pem: str) -> ssl.SSLContext:
    """A client's context that believes this authority and no other.

    Raises:
        ValueError: it is no certificate.
    """
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_CLIENT)
    context.minimum_version = ssl.TLSVersion.TLSv1_2
    try:
        context.load_verify_locations(cadata=authority_pem)
    except ssl.SSLError as exc:
        raise ValueError("not a certificate in PEM form") from exc
    return context


def refusal(exc: BaseException) -> str | None:
    """Why a TLS connection was refused, for people; None where the failure is not one of TLS."""
    cause = getattr(exc, "certificate_error", None) or getattr(exc, "os_error", None)
    if isinstance(cause, BaseException):  # one of aiohttp's, which are of ssl's classes too
        return refusal(cause)
    if isinstance(exc, ssl.SSLCertVerificationError):
        why = _WHY.get(exc.verify_code, f"is not accepted: {exc.verify_message}")
        return f"its certificate {why}"
    if isinstance(exc, ssl.SSLError):
        return "it does not speak TLS there"
    return None

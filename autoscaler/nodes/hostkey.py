"""How a node's host key is proven at first contact: first use, bound to a nonce.

The cloud tells us no host key. The startup script holds 256 random bits of this node's alone and leaves
HMAC-SHA256(nonce, host public key) where the login may read it. Whoever relays the real machine's proof shows a key of
his own, to which the proof does not fit. After the pin the nonce is worthless, and it is erased.
"""

from __future__ import annotations

import hashlib
import hmac
import secrets

NONCE_BYTES = 32
PROOF_FILE = "/run/autoscaler/host_key_proof"


def new_nonce() -> str:
    """Draw the nonce of one node, as 64 hex digits."""
    return secrets.token_hex(NONCE_BYTES)


def normal_form(public_key: str) -> str:
    """A public key's kind and data, without its comment: `ssh-ed25519 AAAA…`.

    Raises:
        ValueError: not of this form.
    """
    words = public_key.split()
    if len(words) < 2:
        raise ValueError("not a public key line")
    return f"{words[0]} {words[1]}"


def proof_of(nonce: str, public_key: str) -> str:
    """What the machine that holds both must have written, as hex digits."""
    message = normal_form(public_key).encode()
    return hmac.new(bytes.fromhex(nonce), message, hashlib.sha256).hexdigest()


def is_proven(proof: str, nonce: str, public_key: str) -> bool:
    """Whether the proof was made from this nonce for this very key; in constant time."""
    return hmac.compare_digest(proof.strip().encode(), proof_of(nonce, public_key).encode())

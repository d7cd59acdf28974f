"""The mkinf cloud API v0.1: a typed client, its price list, and the `Cloud` made of both.

`MkinfClient` speaks every endpoint that is documented or inferred (`endpoints.py` says which is
which) and returns frozen values. It never repeats a call that might act twice, never follows a
redirect, never sends the key to another host, and never reads "gone" from an answer that it did
not understand.
"""

from __future__ import annotations

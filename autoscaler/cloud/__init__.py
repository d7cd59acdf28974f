"""What this program asks of a GPU cloud (`protocol.py`), and the clouds that answer it.

A cloud module turns somebody's API into domain values and the failures of `errors.py`. It must
never decide what to rent, never hide a machine that may bill, and never let a library's exception
or a secret out.
"""

from __future__ import annotations

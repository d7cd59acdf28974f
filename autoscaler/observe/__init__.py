"""Measures one model's demand: sources of signals, and how several become one.

One module per source turns somebody's page or answer into figures with their age, or into gaps with their reasons;
`merge.py` is pure and settles which source speaks for which figure; `feed.py` owns a model's sources and its history.

It must never take missing data for no load, never raise because a source is down, never decide anything, and
believe nothing that a page says beyond what its range allows.
"""

from __future__ import annotations

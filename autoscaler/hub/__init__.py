"""What a hub tells of a model's shape: its `config.json`, understood, fetched, and kept beside the policy."""

from __future__ import annotations

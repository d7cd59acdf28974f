"""Write autoscaler/data/schema/*.json anew: types from the code, descriptions from docs/. `make schema` runs it."""

from __future__ import annotations

import json
import re
from collections.abc import Mapping
from pathlib import Path

from pydantic import BaseModel

from autoscaler.config import Config
from autoscaler.file_schema import schema_of
from autoscaler.policy import Policy

ROOT = Path(__file__).parents[1]
FILES: Mapping[str, tuple[type[BaseModel], str, str]] = {
    "config": (Config, "configuration.md", "autoscaler: config.toml"),
    "policy": (Policy, "policy.md", "autoscaler: a policy, one file per model"),
}


def described(text: str) -> dict[tuple[str, str], str]:
    """What a reference says of each key, by table and key."""
    found: dict[tuple[str, str], str] = {}
    table = ""
    for line in text.splitlines():
        if line.startswith("#"):
            name = re.search(r"`\[+([a-z_.]+?)(?:\.\"TYPE\")?\]+`(?:: )?(.*)", line)
            table = name[1] if name else ""
            parent, _, key = table.rpartition(".")
            if name and name[2]:
                found[parent, key] = f"{name[2][:1].upper()}{name[2][1:]}."
        row = re.match(r"\| `([a-z_]+)` \| (.*) \|$", line)
        if row:
            found[table, row[1]] = row[2].split(" | ")[-1]
    return found


def texts() -> dict[str, str]:
    """The finished files."""
    written = {}
    for kind, (values, reference, title) in FILES.items():
        about = described((ROOT / "docs" / reference).read_text("utf-8"))
        schema = schema_of(values, title, about)
        written[kind] = json.dumps(schema, indent=1, ensure_ascii=False, sort_keys=False) + "\n"
    return written


def main() -> None:
    """Write them."""
    for kind, text in texts().items():
        path = ROOT / "autoscaler" / "data" / "schema" / f"{kind}.json"
        path.parent.mkdir(exist_ok=True)
        path.write_text(text, "utf-8")


if __name__ == "__main__":
    main()

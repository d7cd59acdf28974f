"""`autoscaler schema`."""

from __future__ import annotations

from enum import StrEnum
from typing import Annotated

import typer

from autoscaler.file_schema import shipped


class Kind(StrEnum):
    CONFIG = "config"
    POLICY = "policy"


def schema(
    kind: Annotated[Kind, typer.Argument(help="of config.toml, or of a policy file")],
) -> None:
    """Print the JSON Schema of config.toml or of a policy, for editors that check while one types.

    Save it, and name it in the file's first line, as `#:schema policy.schema.json`.
    """
    typer.echo(shipped(kind.value), nl=False)

"""The directories that the daemon makes for itself."""

from __future__ import annotations

from pathlib import Path

from autoscaler.errors import ConfigError


def private_directory(path: Path) -> None:
    """Make a directory, where there is none, that nobody else may enter.

    Raises:
        ConfigError: it cannot be made.
    """
    try:
        path.mkdir(parents=True, exist_ok=True, mode=0o700)
    except OSError as exc:
        raise ConfigError(
            f"{path}: cannot make this directory ({exc.strerror}): name another one as state_dir or "
            "runtime_dir in config.toml, or run as the service's user"
        ) from exc

"""Puts new files into place: all of them or none, and never over one that is there."""

from __future__ import annotations

import os
import shutil
import tempfile
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

from autoscaler.errors import ConfigError


@dataclass(frozen=True, slots=True)
class NewFile:
    """A file to be made."""

    content: bytes
    mode: int = 0o644


def refuse_existing(paths: Iterator[Path]) -> None:
    """Refuse to replace anything.

    Raises:
        ConfigError: some of the files are there already; all are named.
    """
    there = [str(path) for path in paths if path.exists() or path.is_symlink()]
    if there:
        raise ConfigError(
            f"there already: {', '.join(there)}: nothing was written; name another directory, or move them away"
        )


@contextmanager
def staged(
    directory: Path, files: Mapping[Path, NewFile], folders: Sequence[Path] = ()
) -> Iterator[Path]:
    """Write the files below a private directory beside their places, and put them there when the block ends well.

    Args:
        files: by their paths, relative to `directory` or absolute; absolute ones are put into place, but not staged.
        folders: directories of our own to be made too.

    Raises:
        ConfigError: one of them cannot be written, or came to be meanwhile; none is left then.
    """
    made = _make_directory(directory)
    try:
        try:
            stage = Path(tempfile.mkdtemp(prefix=".autoscaler-init-", dir=directory))
        except OSError as exc:
            raise ConfigError(f"{directory}: cannot be written: {exc.strerror}") from exc
        try:
            for path, file in files.items():
                if not path.is_absolute():
                    _write(stage / path, file)
            yield stage
            _place(directory, files, folders)
        finally:
            shutil.rmtree(stage, ignore_errors=True)
    except BaseException:
        _remove_empty(made)
        raise


def _place(directory: Path, files: Mapping[Path, NewFile], folders: Sequence[Path]) -> None:
    placed: list[Path] = []
    made: list[Path] = []
    try:
        for folder in folders:
            made += _make_directory(directory / folder, 0o700)
        for path, file in files.items():
            target = directory / path
            made += _make_directory(target.parent, 0o700 if file.mode == 0o600 else 0o755)
            _write(target, file)
            placed.append(target)
    except BaseException:
        for target in placed:
            target.unlink(missing_ok=True)
        _remove_empty(made)
        raise


def _write(path: Path, file: NewFile) -> None:
    """Make one file that was not there, with its mode from the first instant."""
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        descriptor = os.open(path, os.O_WRONLY | os.O_CREAT | os.O_EXCL | os.O_CLOEXEC, file.mode)
        with os.fdopen(descriptor, "wb") as opened:
            os.fchmod(descriptor, file.mode)
            opened.write(file.content)
            opened.flush()
            os.fsync(descriptor)
        if os.geteuid() == 0:  # what root makes in a service's directory is the service's
            owner = path.parent.stat()
            os.chown(path, owner.st_uid, owner.st_gid)
    except FileExistsError:
        raise ConfigError(f"{path}: is there already: nothing was written") from None
    except OSError as exc:
        path.unlink(missing_ok=True)
        raise ConfigError(f"{path}: cannot be written: {exc.strerror}") from exc


def _make_directory(path: Path, mode: int = 0o755) -> list[Path]:
    """Make a directory and those above it; returns those that were made, the innermost last."""
    missing = [each for each in (path, *path.parents) if not each.exists()]
    try:
        for each in reversed(missing):
            each.mkdir(mode=mode)
    except OSError as exc:
        raise ConfigError(f"{path}: cannot be made: {exc.strerror}") from exc
    return list(reversed(missing))


def _remove_empty(made: list[Path]) -> None:
    for path in reversed(made):
        try:
            path.rmdir()
        except OSError:  # something is in it
            return

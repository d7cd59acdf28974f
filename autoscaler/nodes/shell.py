"""What verification and diagnostics need of a node: commands and their output, over whatever reaches it."""

from __future__ import annotations

from contextlib import AbstractAsyncContextManager
from dataclasses import dataclass
from typing import Protocol

OUTPUT_BYTES = 256 * 1024
TIMED_OUT = frozenset({124, 137})  # what `timeout` answers when it ended the command


@dataclass(frozen=True, slots=True)
class CommandOutput:
    """What a command said, made printable.

    Attributes:
        rc: its exit code; -1 when it was cut off at the cap.
        truncated: more came than the caller wanted, and the command was ended.
    """

    rc: int
    stdout: str
    stderr: str
    truncated: bool = False

    @property
    def timed_out(self) -> bool:
        """Whether the node's own `timeout` ended it."""
        return self.rc in TIMED_OUT


class NodeShell(Protocol):
    """A session on a node whose host key is the pinned one."""

    async def run(
        self,
        command: str,
        *,
        timeout_s: float,
        max_bytes: int = OUTPUT_BYTES,
        input: bytes | None = None,
    ) -> CommandOutput:
        """Run a line of sh. It may run twice, for a session may drop before its answer.

        Raises:
            NodeUnreachable: no answer; the command may have run.
        """

    async def put_secret(self, path: str, content: bytes) -> None:
        """Write a file that only the login may read, whole or not at all. `path` is absolute.

        Raises:
            NodeUnreachable: not known to be written.
        """


class NodeAccess(Protocol):
    """Reaches nodes."""

    async def first_contact(self, address: str, nonce: str) -> str:
        """Learn a node's host key, proven by the nonce of its startup script, to be pinned by the caller.

        Raises:
            NodeUnreachable: not up, not authorized, or not proven yet. Try again.
            HostKeyMismatch: a proof that does not fit the key: not the machine that got our script.
        """

    def connect(self, address: str, host_key: str) -> AbstractAsyncContextManager[NodeShell]:
        """Open a session to the machine with this host key and to no other.

        Raises:
            NodeUnreachable: no session.
            HostKeyMismatch: another key than the pinned one. Never retried unpinned.
        """

"""First words with a machine that no row knows: which host key it shows, and whether our authority signed it.

Nothing secret is sent before that is proven, and a login proves nothing to whoever relays it: its signature is bound
to the session.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

from autoscaler.errors import HostKeyMismatch, NodeUnreachable
from autoscaler.nodes.host_authority import HostAuthority
from autoscaler.nodes.manifest import Manifest
from autoscaler.nodes.ssh import SshAccess
from autoscaler.nodes.vouching import CERTIFICATE_BYTES, READ_CERTIFICATE, authorize


@dataclass(frozen=True, slots=True)
class Introductions:
    """Speaks to strange machines over SSH.

    Attributes:
        access: makes a way to them, with our key and a fresh certificate of the authority for it.
        public_line: of our key, to be let in by itself from then on.
    """

    authority: HostAuthority
    access: Callable[[], SshAccess]
    public_line: str

    async def introduce(self, address: str) -> tuple[str, Manifest]:
        """The host key that a machine shows, and what our authority signed for that very key.

        Raises:
            NodeUnreachable: no answer, or it does not let us in.
            HostKeyMismatch: nothing that proves it.
        """
        access = self.access()
        shown = await access.shown_key(address)
        async with access.connect(address, shown) as shell:
            output = await shell.run(
                READ_CERTIFICATE, timeout_s=access.timeout_s, max_bytes=CERTIFICATE_BYTES
            )
        if output.rc != 0 or not output.stdout.strip():
            raise HostKeyMismatch(
                f"{address}: it has no certificate of ours: its host key was never pinned here, or by an older "
                "version. If you know that key: `autoscaler adopt VM --model MODEL --host-key KEY`"
            )
        return shown, self.authority.read(output.stdout, shown)

    async def shown_key(self, address: str) -> str:
        """The host key that it shows, which proves nothing. Raises `NodeUnreachable`."""
        return await self.access().shown_key(address)

    async def lets_in(self, address: str, host_key: str) -> bool:
        """Whether our login is accepted there; nothing is run. Raises `HostKeyMismatch`: it shows another key now."""
        try:
            async with self.access().connect(address, host_key):
                return True
        except NodeUnreachable:
            return False

    async def authorize(self, address: str, host_key: str) -> None:
        """Have it let our key in without the certificate, as all later sessions and tunnels want it.

        Raises:
            NodeUnreachable: no answer. HostKeyMismatch: another key than the proven one.
        """
        async with self.access().connect(address, host_key) as shell:
            if not await authorize(shell, self.public_line):
                raise NodeUnreachable(f"{address}: cannot write ~/.ssh/authorized_keys there")

"""What we leave on a node over its pinned session, so that it can be proven and entered without our store.

Four things, all below what the login may write: the certificate of its host key, the authority's line and our client
key's in authorized_keys, and a mark that we were there, which the node's dead-man's switch looks for. Left again at
each visit: an image's own agent may write authorized_keys anew.
"""

from __future__ import annotations

from dataclasses import dataclass
from datetime import datetime, timedelta

import asyncssh
import structlog

from autoscaler.domain.node import Node
from autoscaler.nodes.host_authority import HostAuthority
from autoscaler.nodes.keys import public_line
from autoscaler.nodes.manifest import manifest_of
from autoscaler.nodes.shell import NodeShell

log = structlog.get_logger(__name__)

CERTIFICATE_BYTES = 16 * 1024
READ_CERTIFICATE = 'cat "$HOME/.autoscaler/host_certificate"'
# In place of lines that begin with HEAD: an authority that was replaced lets nobody in any more.
_PUT_LINE = """
put_line() {  # LINE HEAD
    keys="$HOME/.ssh/authorized_keys"
    mkdir -p "$HOME/.ssh" && chmod 0700 "$HOME/.ssh" || return 1
    grep -qxF -e "$1" "$keys" 2>/dev/null && return 0
    { grep -vF -e "$2" "$keys" 2>/dev/null; printf '%s\\n' "$1"; } >"$keys.new.$$" && mv -f "$keys.new.$$" "$keys"
}
"""
# Our client key may have been replaced since: the new one is let in by the authority's certificate, and then instead
# of the old one. A line of a person's key has another comment, or options before it, and stays.
_PUT_KEY = r"""
put_key() {  # LINE
    keys="$HOME/.ssh/authorized_keys" ours='^ssh-(ed25519|rsa) [A-Za-z0-9+/=]+ autoscaler$'
    [ "$(grep -E -e "$ours" "$keys" 2>/dev/null)" != "$1" ] || return 0
    { grep -vE -e "$ours" "$keys" 2>/dev/null; printf '%s\n' "$1"; } >"$keys.new.$$" && mv -f "$keys.new.$$" "$keys"
}
"""
_VISIT = f"""
umask 077
{_PUT_LINE}
{_PUT_KEY}
seen="${{VM_ROOT:-}}/run/autoscaler/secrets"
[ ! -w "$seen" ] || date +%s%N >"$seen/visited"
IFS= read -r certificate && IFS= read -r line && IFS= read -r head && mkdir -p "$HOME/.autoscaler" || exit 1
IFS= read -r key || key=
printf '%s\\n' "$certificate" >"$HOME/.autoscaler/new.$$" &&
    mv -f "$HOME/.autoscaler/new.$$" "$HOME/.autoscaler/host_certificate" && put_line "$line" "$head" &&
    {{ [ -z "$key" ] || put_key "$key"; }}
"""
_AUTHORIZE = f"""
umask 077
{_PUT_LINE}
IFS= read -r line && put_line "$line" "$line"
"""
_TIMEOUT_S = 15.0
_RENEW_LOGIN = timedelta(hours=12)


@dataclass(eq=False, slots=True)
class Voucher:
    """Leaves our word on nodes.

    Attributes:
        mark: `<prefix>-<owner>`: what a login's certificate must name.
        client: our key, which nodes let in from now on in place of another one of ours; None leaves theirs.
    """

    authority: HostAuthority
    mark: str
    client: asyncssh.SSHKey | None = None
    _login: tuple[datetime, asyncssh.SSHCertificate] | None = None

    def login(self, now: datetime) -> asyncssh.SSHCertificate | None:
        """A certificate that lets our key in where another key of ours still stands; renewed long before it ends."""
        if self.client is None:
            return None
        if self._login is None or abs(now - self._login[0]) > _RENEW_LOGIN:
            self._login = now, self.authority.admit(self.client, self.mark, now)
        return self._login[1]

    async def visit(self, shell: NodeShell, node: Node) -> None:
        """Leave all of it, in a session that is pinned to the node's host key.

        A node that cannot keep it serves all the same: it is only lost together with our store.

        Raises:
            NodeUnreachable: no answer.
        """
        if node.host_key is None:
            return
        certificate = self.authority.certify(node.host_key, manifest_of(node, self.mark))
        line = self.authority.trust_line(self.mark)
        text = f"{certificate}\n{line}\n{self.authority.trust_head(self.mark)}\n"
        if self.client is not None:
            text += f"{public_line(self.client)}\n"
        output = await shell.run(
            _VISIT, timeout_s=_TIMEOUT_S, max_bytes=4096, input=text.encode("ascii")
        )
        if output.rc != 0:
            log.warning("node_not_vouched_for", node=node.name, why=output.stderr.strip()[:200])


async def authorize(shell: NodeShell, public_line: str) -> bool:
    """Let this client key in from now on; whether the node took it.

    Raises:
        NodeUnreachable: no answer; it may have taken it.
    """
    output = await shell.run(
        _AUTHORIZE, timeout_s=_TIMEOUT_S, max_bytes=4096, input=f"{public_line}\n".encode("ascii")
    )
    return output.rc == 0

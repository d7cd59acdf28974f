"""What a VM runs at every boot: a fixed bash template per server kind, and the values of one node.

`render` is pure: policy and offer in, script out. It must never put a secret into a script: the cloud shows a script to
anyone with the project's key, and keeps it on the VM's disk.
"""

from __future__ import annotations

from autoscaler.nodes.startup.render import StartupScript, render, replicas_of

__all__ = ["StartupScript", "render", "replicas_of"]

"""Tunnels: local ports that lead to model servers, each over an SSH connection pinned to its node's host key.

A process of its own, driven by the daemon over a Unix socket: killing, restarting or upgrading the daemon breaks no
stream, and what the process was told outlives its own restart in a state file. A port whose tunnel does not stand
refuses connections at once, so that a balancer goes elsewhere before it has sent a byte.
"""

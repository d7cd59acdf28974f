"""A local mkinf cloud: the API v0.1 on loopback, with machines that are real processes.

It answers every endpoint of the mkinf API with the shapes, delays and oddities of the real one,
keeps stock, quota, prices and a bill, and injects faults on request. It stands in for somebody
else's cloud: it must never import anything of the daemon, know what the daemon wants, or be kinder
to it than the real cloud would be. It listens on loopback only.
"""

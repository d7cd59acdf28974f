"""The front door: embedded balancer and activator, one process of its own.

Clients speak the OpenAI API to it; it routes by `model`, holds requests while no node is up, streams answers
through unchanged, and knows exactly what is in flight on each endpoint. The daemon drives it over a Unix
socket and may die and return: no stream breaks, no held request is dropped.

It must never decide how many nodes there are, never rent anything, never keep a prompt or a client's key, and never
import the daemon's packages: `domain`, `errors`, `front` and what reads a TOML file are all it shares with them.
"""

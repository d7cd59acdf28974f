"""The daemon's own HTTP: metrics, health, targets for Prometheus, and a JSON API.

It shows; it decides nothing. What changes anything is served on the Unix socket only.
"""

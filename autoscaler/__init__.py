"""Rents GPU machines on demand so that models are served within their latency target at least cost.

The packages follow the flow of one reconcile pass: `observe` measures, `decide` thinks, `nodes` and
`balance` act, `cloud` rents. `docs/architecture.md` has the map.
"""

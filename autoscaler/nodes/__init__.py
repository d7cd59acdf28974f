"""A node's life: launch, verify, register, drain, terminate.

`lifecycle` says what comes next and is pure; `runner` looks, records and then acts. Nothing here knows a particular
cloud, balancer or store, only their Protocols, and no effect here precedes the durable row that names it.
"""

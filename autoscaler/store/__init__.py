"""What must survive the daemon: nodes, intents, events, decisions, money and leases.

A store commits or raises; no effect may follow a commit that raised. It decides nothing: what may be recorded is judged
by the functions it is given, inside its transaction.
"""

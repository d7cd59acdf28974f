"""The brakes: what stops the spending and what watches that it stopped, without the daemon and without its store.

Everything here goes by what the cloud lists and by the mark in the names, so that it works from any host with a key.
"""

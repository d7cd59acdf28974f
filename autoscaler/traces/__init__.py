"""Request traces: read, made by a seeded generator, imported from public formats, and compressed in time.

A trace is a list of requests with their arrival and their sizes; never their text.
"""

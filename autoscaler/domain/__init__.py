"""The nouns of this program as frozen values.

Here is what everybody talks about: money, offers, signals, decisions, plans, nodes and machines. No module here does
I/O, reads a clock or imports anything else of the program.
"""

"""The scaling laws of other tools, written anew from what they document, to be run on the same trace as ours.

A law here is asked every few seconds how many replicas there should be, and keeps its own memory. None knows ours: not
its decisions, nor its model of a server. What each does at its defaults, where each default is stated, and where the
backtest cannot follow the tool is data beside the law (`Rival`); `python -m bench.rivals` prints it.
"""

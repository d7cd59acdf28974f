"""Benchmarks that print ratios against a peer or a bound, measured in the same run. They never run in the tests."""

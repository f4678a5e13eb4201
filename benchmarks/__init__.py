"""Benchmarks: what spoolq costs, as ratios to a floor in the same run. `make bench`, or `python -m benchmarks`.

Figures are medians over interleaved rounds, since machines are noisy; only ratios are worth quoting across machines.
"""

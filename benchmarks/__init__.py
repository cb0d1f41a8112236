"""Benchmarks: ratios of two ways of doing the same thing, interleaved in one process. `python -m benchmarks` runs them all."""

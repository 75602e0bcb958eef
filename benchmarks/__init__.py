"""Measurements behind the numbers that this project states: `python -m benchmarks.NAME`."""

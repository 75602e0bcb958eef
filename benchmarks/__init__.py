"""Measurements behind the project's numbers, run as `python -m benchmarks.speed.step`; results/ has their pages."""

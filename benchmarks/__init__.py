"""Speeds as ratios to their limits: `python -m benchmarks.NAME [--json]`."""

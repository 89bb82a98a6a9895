"""Quantizers: float weights to weights in codes."""

"""Evolute: design, verify and price accelerators for low-bit language models."""

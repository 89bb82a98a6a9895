"""Engines of one size side by side on one layer of a language model: `evolute compare`."""

"""Compares engines of one size on one layer of a language model: `evolute compare`."""

"""Revisions of what the software half computes; caches and studies are tied to them.

Each grows when a change gives another result for some input; comments, names and layout of the
source do not count. `tests/dse/test_revisions.py` holds each to the results of a few inputs.
"""

QUANTIZERS = 2
"""Of how layers are quantized: it grows when a request gives other codes than before, so that what
an older revision left is not taken for what this one makes."""

LANGUAGE_MODEL = 1
"""Of the language models' forward pass and of how perplexity is taken. Results are floats, whose
last digits depend on the machine; those do not count."""

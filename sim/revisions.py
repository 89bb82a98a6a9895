"""Revisions of the models of an accelerator; caches and studies are tied to them.

Each grows when a change gives another result for some input; comments, names and layout of the
source do not count. `tests/dse/test_revisions.py` holds each to the results of a few inputs.
"""

GOLDEN = 1
"""Of the golden models: what an accelerator's results are, bit for bit."""

CYCLES = 1
"""Of the cycle models: schedules, and the cycles that they take."""

COST = 1
"""Of what is made of cycles: seconds, bytes moved over the memory bus, and their totals."""

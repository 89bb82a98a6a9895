"""Revisions of what the hardware half computes; caches and studies are tied to them.

Each grows when a change gives another result for some input; comments, names and layout of the
source do not count. `tests/dse/test_revisions.py` holds each to the results of a few inputs.
"""

RTL = 2
"""Of the Verilog that specs become."""

SYNTHESIS = 3
"""Of how a netlist is mapped, placed and measured: scripts, assumptions, and what is read from the
tools' reports. The tools' own versions are facts beside it."""

"""Accelerator specs, their RTL, and the Verilog and synthesis that come from it.

Importing `hw` or `hw.spec` needs the standard library only; Amaranth is loaded by `hw.rtl`.
"""

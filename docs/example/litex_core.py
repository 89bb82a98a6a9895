"""Puts an exported core into a LiteX system (checked with LiteX 2024.12).

core = EvoluteCore(platform, "build")       # the folder of `evolute export`
soc.evolute = core
soc.bus.add_master("evolute", master=core.memory)
soc.bus.add_slave("evolute", core.host, SoCRegion(origin=..., size=0x1000, cached=False))
soc.irq.add("evolute")                      # where there is a processor
"""

from __future__ import annotations

import json
from pathlib import Path

from litex.gen import LiteXModule
from litex.soc.interconnect import axi
from litex.soc.interconnect.csr_eventmanager import EventManager, EventSourceLevel
from migen import ClockSignal, Instance, ResetSignal, Signal


class EvoluteCore(LiteXModule):
    """The core with its two buses as LiteX interfaces; `ev.core` is pending while it interrupts.

    Members
    -------
    memory : AXI4 manager, through which the core reads and writes.
    host : AXI4-Lite subordinate, the core's registers.
    busy : a program runs.
    """

    def __init__(self, platform, folder: str):
        sidecar = json.loads(Path(folder, "evolute_core.json").read_text(encoding="utf-8"))
        buses = sidecar["buses"]
        self.memory = axi.AXIInterface(
            data_width=buses["m_axi"]["data_bits"],
            address_width=buses["m_axi"]["address_bits"],
            id_width=1,  # the core answers to none and gives none: all stays in order
            bursting=True,
        )
        # LiteX buses have addresses of one width; the core takes the low bits.
        self.host = axi.AXILiteInterface(data_width=buses["s_axi"]["data_bits"], address_width=32)
        self.busy = Signal()
        interrupt = Signal()
        self.ev = EventManager()
        self.ev.core = EventSourceLevel()
        self.ev.finalize()
        self.comb += self.ev.core.trigger.eq(interrupt)

        connected = {
            "aclk": ClockSignal(),
            "aresetn": ~ResetSignal(),
            "interrupt": interrupt,
            "busy": self.busy,
        }
        for name, port in sidecar["ports"].items():
            prefix, _, signal = name.rpartition("_")
            if prefix in buses:
                interface = self.memory if prefix == "m_axi" else self.host
                channel = signal[:2] if signal[:2] in ("aw", "ar") else signal[:1]
                wires = getattr(getattr(interface, channel), signal[len(channel) :])
                connected[name] = wires[: port["width"]]
        self.specials += Instance(
            sidecar["module"],
            **{f"{port['direction'][0]}_{name}": connected[name]
               for name, port in sidecar["ports"].items()},
        )  # fmt: skip
        platform.add_source(str(Path(folder, "evolute_core.v").resolve()))

"""Groups of ports, described once as signatures: AXI4, AXI4-Lite, and requests for bursts.

The components at both ends of a connection have the signature as one member, flipped at one end,
and `connect` joins them.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import TYPE_CHECKING

from amaranth.hdl import Module, Signal
from amaranth.lib import wiring
from amaranth.lib.wiring import In, Out

from evolute.hw.isa.instructions import OPERATIONS, Unit
from evolute.hw.isa.registers import ADDRESS_BITS
from evolute.hw.spec.core import CoreSpec


class Ports(wiring.PureInterface):
    """The signals of a `Bundle`, as attributes."""

    if TYPE_CHECKING:

        def __getattr__(self, name: str) -> Signal: ...


class Bundle(wiring.Signature):
    """A signature whose signals are named `prefix` plus the name of the member, whatever the member
    is called that has this signature. This keeps the names of the AXI specification in the
    Verilog."""

    def __init__(self, members: Mapping[str, wiring.Member], prefix: str = ""):
        super().__init__(dict(members))
        self.prefix = prefix

    def create(self, *, path: tuple[str | int, ...] | None = None, src_loc_at: int = 0) -> Ports:
        ports = Ports(self, path=(), src_loc_at=1 + src_loc_at)
        for name in self.members:
            getattr(ports, name).name = self.prefix + name
        return ports

    def of(self, signals: Mapping[str, Signal]) -> Ports:
        """An interface made of signals that already exist, found by their names with the prefix."""
        ports = Ports.__new__(Ports)
        members = {name: signals[self.prefix + name] for name in self.members}
        ports.__dict__.update(signature=self, **members)
        return ports


Interface = Ports | wiring.FlippedInterface
"""A bundle's signals, or the same seen from the other end."""


def connect(m: Module, first: Interface, second: Interface) -> None:
    """Connect two bundles like `wiring.connect`, in the order of the members of `first`.

    Amaranth numbers signals of equal names in the order in which they are used; its own
    alphabetical order would show in the Verilog.
    """
    assert set(first.signature.members) == set(second.signature.members)
    for name in first.signature.members:
        wiring.connect(m, _member(first, name), _member(second, name))


def _member(ports: Interface, name: str) -> Ports:
    return Bundle({name: ports.signature.members[name]}).of({name: getattr(ports, name)})


def _manager(core: CoreSpec) -> dict[str, wiring.Member]:
    """All signals of an AXI4 manager without identifiers, channel by channel."""
    address, data = Out(core.address_bits), core.bus_bits
    request = {
        "addr": address,
        "len": Out(8),
        "size": Out(3),
        "burst": Out(2),
        "cache": Out(4),
        "prot": Out(3),
        "valid": Out(1),
        "ready": In(1),
    }
    strobes = Out(core.bus_bytes)
    channels = {
        "ar": request,
        "r": {"data": In(data), "resp": In(2), "last": In(1), "valid": In(1), "ready": Out(1)},
        "aw": request,
        "w": {
            "data": Out(data),
            "strb": strobes,
            "last": Out(1),
            "valid": Out(1),
            "ready": In(1),
        },
        "b": {"resp": In(2), "valid": In(1), "ready": Out(1)},
    }
    return _flat(channels)


def _lite_manager() -> dict[str, wiring.Member]:
    """All signals of an AXI4-Lite manager of 32 bits, channel by channel."""
    request = {"addr": Out(ADDRESS_BITS), "prot": Out(3), "valid": Out(1), "ready": In(1)}
    return _flat(
        {
            "aw": request,
            "w": {"data": Out(32), "strb": Out(4), "valid": Out(1), "ready": In(1)},
            "b": {"resp": In(2), "valid": In(1), "ready": Out(1)},
            "ar": request,
            "r": {"data": In(32), "resp": In(2), "valid": In(1), "ready": Out(1)},
        }
    )


def _flat(channels: Mapping[str, Mapping[str, wiring.Member]]) -> dict[str, wiring.Member]:
    return {
        channel + name: member
        for channel, members in channels.items()
        for name, member in members.items()
    }


MEMORY, HOST = "m_axi_", "s_axi_"
"""What the names of the core's ports to memory, and to the host, begin with."""


def core_ports(core: CoreSpec) -> dict[str, wiring.Member]:
    """The core's ports by their names in Verilog."""
    memory = {MEMORY + name: member for name, member in _manager(core).items()}
    host = {HOST + name: member.flip() for name, member in _lite_manager().items()}
    return {"aclk": In(1), "aresetn": In(1), **memory, **host, "interrupt": Out(1), "busy": Out(1)}


def _some(members: Mapping[str, wiring.Member], names: str, prefix: str) -> Bundle:
    return Bundle({name: members[name] for name in names.split()}, prefix)


def axi_read(core: CoreSpec, prefix: str = "") -> Bundle:
    """The read channels of an AXI4 manager that requests bursts of whole words and takes every word
    at once; without the signals that are constant then."""
    return _some(_manager(core), "araddr arlen arvalid arready rdata rresp rvalid", prefix)


def axi_write(core: CoreSpec, prefix: str = "") -> Bundle:
    """The write channels of an AXI4 manager that writes whole words and takes every answer at once;
    without the signals that are constant then."""
    names = "awaddr awlen awvalid awready wdata wlast wvalid wready bresp bvalid"
    return _some(_manager(core), names, prefix)


def axi_lite(prefix: str = "") -> Bundle:
    """The channels of a 32-bit AXI4-Lite manager, without the protection bits, which nothing
    reads."""
    members = _lite_manager()
    return _some(members, " ".join(name for name in members if "prot" not in name), prefix)


def burst_request(core: CoreSpec, prefix: str = "") -> Bundle:
    """A request for a read burst of `beats_minus_1` + 1 bus words from the byte address `memory`
    on."""
    return Bundle(_burst(core), prefix)


def load_request(core: CoreSpec, prefix: str = "") -> Bundle:
    """A request for one burst of a load.

    Beside the members of `burst_request` it has `last` (the burst is the load's last one), `buffer`
    and `address` (the buffer and bus word that its first word goes to), and `signals` (the tokens
    that the load gives when it is complete, one bit per unit).
    """
    load = OPERATIONS["load"]
    members = {
        **_burst(core),
        "last": Out(1),
        "buffer": Out(load["buffer"].bits),
        "address": Out(range(core.largest_buffer_words)),
        "signals": Out(len(Unit)),
    }
    return Bundle(members, prefix)


def _burst(core: CoreSpec) -> dict[str, wiring.Member]:
    return {
        "request": Out(1),
        "memory": Out(core.address_bits),
        "beats_minus_1": Out(range(core.burst_beats)),
    }

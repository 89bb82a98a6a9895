"""The Verilog attributes by which Vivado recognizes a module's clock, reset, interrupt and AXI
interfaces."""

from __future__ import annotations

from collections.abc import Iterable

from evolute.hw.emit.sidecar import Bus, ControlPorts


def attributes(ports: ControlPorts, names: Iterable[str]) -> dict[str, dict[str, str]]:
    """The Verilog attributes of each port, as AMD's UG994 describes them for module references.

    `names` are all ports of the module. The result is empty for a module without AXI interfaces:
    plain streams need no attributes.
    """
    if not ports.buses:
        return {}
    names = list(names)
    buses = ":".join(bus.name for bus in ports.buses)
    attributes_of = {
        ports.clock: _signal(
            "clock", ports.clock, "CLK", f"ASSOCIATED_BUSIF {buses}, ASSOCIATED_RESET {ports.reset}"
        ),
        ports.reset: _signal(
            "reset", ports.reset, "RST", f"POLARITY ACTIVE_{'HIGH' if ports.reset_level else 'LOW'}"
        ),
    }
    if ports.interrupt:
        attributes_of[ports.interrupt] = _signal(
            "interrupt", ports.interrupt, "INTERRUPT", "SENSITIVITY LEVEL_HIGH"
        )
    for bus in ports.buses:
        members = [name for name in names if name.startswith(f"{bus.name}_")]
        for name in members:
            signal = name.removeprefix(f"{bus.name}_").upper()
            info = f"xilinx.com:interface:aximm:1.0 {bus.name} {signal}"
            attributes_of[name] = {"X_INTERFACE_INFO": info}
        attributes_of[members[0]]["X_INTERFACE_PARAMETER"] = _parameters(bus)
    return attributes_of


def _signal(kind: str, port: str, logical: str, parameters: str) -> dict[str, str]:
    return {
        "X_INTERFACE_INFO": f"xilinx.com:signal:{kind}:1.0 {port} {logical}",
        "X_INTERFACE_PARAMETER": f"XIL_INTERFACENAME {port}, {parameters}",
    }


def _parameters(bus: Bus) -> str:
    full = int(bus.protocol == "AXI4")
    values = {
        "XIL_INTERFACENAME": bus.name,
        "PROTOCOL": "AXI4" if full else "AXI4LITE",
        "DATA_WIDTH": bus.data_bits,
        "ADDR_WIDTH": bus.address_bits,
        "ID_WIDTH": bus.id_bits,
        "READ_WRITE_MODE": "READ_WRITE",
        "HAS_BURST": full,
        "HAS_LOCK": 0,
        "HAS_CACHE": full,
        "HAS_PROT": 1,
        "HAS_QOS": 0,
        "HAS_REGION": 0,
        "HAS_WSTRB": 1,
        "HAS_BRESP": 1,
        "HAS_RRESP": 1,
        "SUPPORTS_NARROW_BURST": 0,
        "MAX_BURST_LENGTH": bus.most_burst_beats,
        "NUM_READ_OUTSTANDING": bus.most_outstanding_reads,
        "NUM_WRITE_OUTSTANDING": bus.most_outstanding_writes,
    }
    return ", ".join(f"{name} {value}" for name, value in values.items())

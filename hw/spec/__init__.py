"""What may be chosen, what follows from it, and what is illegal. Standard library only."""

from evolute.hw.spec.base import Spec, SpecError
from evolute.hw.spec.bit_serial import BitSerial
from evolute.hw.spec.core import CoreSpec
from evolute.hw.spec.engine import Engine
from evolute.hw.spec.floating import FloatLut, FloatMac
from evolute.hw.spec.lut_dla import LutDla
from evolute.hw.spec.lut_stationary import LutStationary
from evolute.hw.spec.lut_tensor_core import LutTensorCore
from evolute.hw.spec.mac import Mac
from evolute.hw.spec.unit import UnitSpec
from evolute.hw.spec.vq_codebook import VqCodebook

ENGINES: dict[str, type[Engine]] = {
    "lut_tensor_core": LutTensorCore,
    "mac": Mac,
    "bit_serial": BitSerial,
    "vq_codebook": VqCodebook,
    "lut_dla": LutDla,
}
"""Every engine's spec class by its file stem, the one name it has in all folders."""

BASELINES: dict[str, type[Engine]] = {"float_mac": FloatMac, "float_lut": FloatLut}
"""The spec classes of the floating-point baselines, by name. They have an engine's streams, but no
core can hold them (`hw.spec.floating`)."""


UNITS: dict[str, type[UnitSpec]] = {"lut_stationary": LutStationary}
"""The spec classes of units, machines with streams and clocks of their own, by name."""


def engine_of(spec: Spec) -> str:
    """The name of an engine's, a baseline's or a unit's spec, or of the engine in a core's."""
    engine = spec.engine if isinstance(spec, CoreSpec) else spec
    kinds: dict[str, type[Spec]] = {**ENGINES, **BASELINES, **UNITS}
    return next(name for name, kind in kinds.items() if isinstance(engine, kind))


__all__ = [
    "BASELINES",
    "ENGINES",
    "UNITS",
    "BitSerial",
    "CoreSpec",
    "Engine",
    "FloatLut",
    "FloatMac",
    "LutDla",
    "LutStationary",
    "LutTensorCore",
    "Mac",
    "Spec",
    "SpecError",
    "UnitSpec",
    "VqCodebook",
    "engine_of",
]

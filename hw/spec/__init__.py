"""What may be chosen, what follows from it, and what is illegal. Standard library only."""

from hw.spec.base import Spec, SpecError
from hw.spec.bit_serial import BitSerial
from hw.spec.core import CoreSpec
from hw.spec.engine import Engine
from hw.spec.lut_dla import LutDla
from hw.spec.lut_tensor_core import LutTensorCore
from hw.spec.mac import Mac
from hw.spec.vq_codebook import VqCodebook

ENGINES: dict[str, type[Engine]] = {
    "lut_tensor_core": LutTensorCore,
    "mac": Mac,
    "bit_serial": BitSerial,
    "vq_codebook": VqCodebook,
    "lut_dla": LutDla,
}
"""Every engine's spec class by its file stem, the one name it has in all folders."""


def engine_of(spec: Spec) -> str:
    """The file stem of an engine's spec, or of the engine in a core's."""
    engine = spec.engine if isinstance(spec, CoreSpec) else spec
    return next(stem for stem, kind in ENGINES.items() if isinstance(engine, kind))


__all__ = [
    "ENGINES",
    "BitSerial",
    "CoreSpec",
    "Engine",
    "LutDla",
    "LutTensorCore",
    "Mac",
    "Spec",
    "SpecError",
    "VqCodebook",
    "engine_of",
]

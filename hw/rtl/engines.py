"""The engines that fit the socket of `hw.rtl.compute`, by the class of their spec."""

from collections.abc import Callable
from typing import Any

from hw.rtl.bit_serial import BitSerialEngine
from hw.rtl.engine import EngineComponent
from hw.rtl.float_engines import FloatLutEngine, FloatMacEngine
from hw.rtl.lut_dla import LutDlaEngine
from hw.rtl.lut_tensor_core import LutTensorCoreEngine
from hw.rtl.mac import MacEngine
from hw.rtl.vq_codebook import VqCodebookEngine
from hw.spec.bit_serial import BitSerial
from hw.spec.engine import Engine
from hw.spec.floating import FloatLut, FloatMac
from hw.spec.lut_dla import LutDla
from hw.spec.lut_tensor_core import LutTensorCore
from hw.spec.mac import Mac
from hw.spec.vq_codebook import VqCodebook

ENGINES: dict[type[Engine], Callable[[Any], EngineComponent]] = {
    LutTensorCore: LutTensorCoreEngine,
    Mac: MacEngine,
    BitSerial: BitSerialEngine,
    VqCodebook: VqCodebookEngine,
    LutDla: LutDlaEngine,
}

BASELINES: dict[type[Engine], Callable[[Any], EngineComponent]] = {
    FloatMac: FloatMacEngine,
    FloatLut: FloatLutEngine,
}
"""What only has an engine's streams."""

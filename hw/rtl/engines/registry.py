"""The engines that fit the socket of `hw.rtl.core.compute`, by the class of their spec."""

from collections.abc import Callable
from typing import Any

from evolute.hw.rtl.engines.bit_serial import BitSerialEngine
from evolute.hw.rtl.engines.engine import EngineComponent
from evolute.hw.rtl.engines.floating import FloatLutEngine, FloatMacEngine
from evolute.hw.rtl.engines.lut_dla import LutDlaEngine
from evolute.hw.rtl.engines.lut_tensor_core import LutTensorCoreEngine
from evolute.hw.rtl.engines.mac import MacEngine
from evolute.hw.rtl.engines.vq_codebook import VqCodebookEngine
from evolute.hw.spec.bit_serial import BitSerial
from evolute.hw.spec.engine import Engine
from evolute.hw.spec.floating import FloatLut, FloatMac
from evolute.hw.spec.lut_dla import LutDla
from evolute.hw.spec.lut_tensor_core import LutTensorCore
from evolute.hw.spec.mac import Mac
from evolute.hw.spec.vq_codebook import VqCodebook

COMPONENTS: dict[type[Engine], Callable[[Any], EngineComponent]] = {
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

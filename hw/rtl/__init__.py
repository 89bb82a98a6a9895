"""Amaranth components. `BUILD` makes the hardware of a spec."""

from collections.abc import Callable
from typing import Any

from amaranth.lib import wiring

from hw.rtl.core import Core
from hw.rtl.lut_tensor_core import LutTensorCoreEngine
from hw.spec import CoreSpec, LutTensorCore, Spec

BUILD: dict[type[Spec], Callable[[Any], wiring.Component]] = {
    CoreSpec: Core,
    LutTensorCore: LutTensorCoreEngine,
}

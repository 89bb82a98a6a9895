"""Amaranth components. `BUILD` makes the engine of a spec."""

from collections.abc import Callable
from typing import Any

from amaranth.lib import wiring

from hw.rtl.lut_tensor_core import LutTensorCoreEngine
from hw.spec import LutTensorCore, Spec

BUILD: dict[type[Spec], Callable[[Any], wiring.Component]] = {LutTensorCore: LutTensorCoreEngine}

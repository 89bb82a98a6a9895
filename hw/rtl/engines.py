"""The engines that fit the socket of `hw.rtl.compute`, by the class of their spec."""

from collections.abc import Callable
from typing import Any

from hw.rtl.engine import EngineComponent
from hw.rtl.lut_tensor_core import LutTensorCoreEngine
from hw.spec.engine import Engine
from hw.spec.lut_tensor_core import LutTensorCore

ENGINES: dict[type[Engine], Callable[[Any], EngineComponent]] = {LutTensorCore: LutTensorCoreEngine}

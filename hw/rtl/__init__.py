"""Amaranth components. `BUILD` makes the hardware of a spec."""

from collections.abc import Callable
from typing import Any

from amaranth.lib import wiring

from hw.rtl.core import Core
from hw.rtl.engines import BASELINES, ENGINES
from hw.rtl.lut_stationary import LutStationaryUnit
from hw.rtl.scale_lanes import lanes_of
from hw.spec import CoreSpec, LutStationary, Spec
from hw.spec.scaling import FloatScaling, IntegerScaling

BUILD: dict[type[Spec], Callable[[Any], wiring.Component]] = {
    CoreSpec: Core,
    **ENGINES,
    **BASELINES,
    LutStationary: LutStationaryUnit,
    IntegerScaling: lanes_of,
    FloatScaling: lanes_of,
}

"""Amaranth components. `BUILD` makes the hardware of a spec."""

from collections.abc import Callable
from typing import Any

from amaranth.lib import wiring

from evolute.hw.rtl.core.core import Core
from evolute.hw.rtl.engines.registry import BASELINES, COMPONENTS
from evolute.hw.rtl.units.lut_stationary import LutStationaryUnit
from evolute.hw.rtl.units.scale_lanes import lanes_of
from evolute.hw.spec import CoreSpec, LutStationary, Spec
from evolute.hw.spec.scaling import FloatScaling, IntegerScaling

BUILD: dict[type[Spec], Callable[[Any], wiring.Component]] = {
    CoreSpec: Core,
    **COMPONENTS,
    **BASELINES,
    LutStationary: LutStationaryUnit,
    IntegerScaling: lanes_of,
    FloatScaling: lanes_of,
}

"""Amaranth components. `BUILD` makes the hardware of a spec."""

from collections.abc import Callable
from typing import Any

from amaranth.lib import wiring

from hw.rtl.core import Core
from hw.rtl.engines import BASELINES, ENGINES
from hw.spec import CoreSpec, Spec

BUILD: dict[type[Spec], Callable[[Any], wiring.Component]] = {
    CoreSpec: Core,
    **ENGINES,
    **BASELINES,
}

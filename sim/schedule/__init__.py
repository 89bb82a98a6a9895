"""When, before any cycle is counted: data-free steps. `SCHEDULE` finds the schedule of a spec."""

from types import ModuleType

from hw.spec import LutTensorCore, Spec
from sim.schedule import lut_tensor_core

SCHEDULE: dict[type[Spec], ModuleType] = {LutTensorCore: lut_tensor_core}

"""What value: untimed NumPy models, bit-exact. `GOLDEN` finds the model of a spec."""

from types import ModuleType

from hw.spec import LutTensorCore, Spec
from sim.golden import lut_tensor_core

GOLDEN: dict[type[Spec], ModuleType] = {LutTensorCore: lut_tensor_core}

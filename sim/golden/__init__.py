"""What value: untimed NumPy models, bit-exact. `GOLDEN` finds the model of a spec."""

from types import ModuleType

from evolute.hw.spec import BitSerial, Engine, LutDla, LutTensorCore, Mac, VqCodebook
from evolute.sim.golden import bit_serial, lut_dla, lut_tensor_core, mac, vq_codebook

GOLDEN: dict[type[Engine], ModuleType] = {
    LutTensorCore: lut_tensor_core,
    Mac: mac,
    BitSerial: bit_serial,
    VqCodebook: vq_codebook,
    LutDla: lut_dla,
}

# The types of what `__init__.py` imports when it is asked for.

from evolute.hw.emit.export import to_verilog
from evolute.hw.emit.export import write_export as export
from evolute.hw.spec import (
    BitSerial,
    CoreSpec,
    Engine,
    LutDla,
    LutStationary,
    LutTensorCore,
    Mac,
    Spec,
    SpecError,
    VqCodebook,
)
from evolute.hw.spec.presets import PRESETS as presets
from evolute.hw.spec.presets import Preset, preset
from evolute.hw.synthesis.synth import AsicResult, FpgaResult, split_area, synthesize
from evolute.support.errors import RefusedError
from evolute.sw.checkpoints.zoo import KNOWN as models
from evolute.sw.checkpoints.zoo import KnownModel
from evolute.sw.checkpoints.zoo import load as load_model
from evolute.sw.language_model.model import LanguageModel
from evolute.sw.quantizers.quantize import Quantized, check_quantized, quantize
from evolute.verif.harness.verify import Report
from evolute.verif.verification import verify

__all__ = [
    "AsicResult",
    "BitSerial",
    "CoreSpec",
    "Engine",
    "FpgaResult",
    "KnownModel",
    "LanguageModel",
    "LutDla",
    "LutStationary",
    "LutTensorCore",
    "Mac",
    "Preset",
    "Quantized",
    "RefusedError",
    "Report",
    "Spec",
    "SpecError",
    "VqCodebook",
    "check_quantized",
    "export",
    "load_model",
    "models",
    "preset",
    "presets",
    "quantize",
    "split_area",
    "synthesize",
    "to_verilog",
    "verify",
]

PLACES: dict[str, str]

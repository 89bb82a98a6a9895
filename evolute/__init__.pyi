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
from evolute.hw.spec.platform import Platform
from evolute.hw.spec.presets import PRESETS as presets
from evolute.hw.spec.presets import Preset, preset
from evolute.hw.synthesis.asic import AsicResult
from evolute.hw.synthesis.synth import FpgaResult, split_area, synthesize
from evolute.reports.frames import records
from evolute.sim.cost.batch import ColumnMetrics, evaluate_columns
from evolute.sim.cost.columns import Designs
from evolute.sim.cost.engine import phase_of
from evolute.sim.cost.evaluate import evaluate
from evolute.sim.cost.metrics import Metrics
from evolute.sim.cost.token import Host
from evolute.sim.workload.operations import CacheFormat, Pass
from evolute.sim.workload.serving import Serving
from evolute.sim.workload.shape import ModelShape
from evolute.sim.workload.zoo import ZooEntry, zoo_entry
from evolute.support.errors import RefusedError
from evolute.sw.checkpoints.zoo import KNOWN as models
from evolute.sw.checkpoints.zoo import KnownModel
from evolute.sw.checkpoints.zoo import load as load_model
from evolute.sw.deploy.assignment import Assignment
from evolute.sw.deploy.assignment import assign as plan
from evolute.sw.deploy.simulate import Request, Simulation, simulate_shape
from evolute.sw.deploy.unweighted import head_format, parse_format
from evolute.sw.language_model.model import LanguageModel
from evolute.sw.quantizers.quantize import Quantized, check_quantized, quantize
from evolute.sw.tensors.weights import Weights, parse_weights
from evolute.verif.harness.verify import Report
from evolute.verif.verification import verify

__all__ = [
    "AsicResult",
    "Assignment",
    "BitSerial",
    "CacheFormat",
    "ColumnMetrics",
    "CoreSpec",
    "Designs",
    "Engine",
    "FpgaResult",
    "Host",
    "KnownModel",
    "LanguageModel",
    "LutDla",
    "LutStationary",
    "LutTensorCore",
    "Mac",
    "Metrics",
    "ModelShape",
    "Pass",
    "Platform",
    "Preset",
    "Quantized",
    "RefusedError",
    "Report",
    "Request",
    "Serving",
    "Simulation",
    "Spec",
    "SpecError",
    "VqCodebook",
    "Weights",
    "ZooEntry",
    "check_quantized",
    "evaluate",
    "evaluate_columns",
    "export",
    "head_format",
    "load_model",
    "models",
    "parse_format",
    "parse_weights",
    "phase_of",
    "plan",
    "preset",
    "presets",
    "quantize",
    "records",
    "simulate_shape",
    "split_area",
    "synthesize",
    "to_verilog",
    "verify",
    "zoo_entry",
]

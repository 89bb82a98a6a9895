"""Evolute: design, verify and price accelerators for low-bit language models.

`import evolute` takes milliseconds: each name is imported when it is first used. `docs/api.md` has
examples that run.

A spec describes an accelerator. There is one class for every engine, and `CoreSpec` for a complete
core; `preset` gives the named ones. A spec that cannot be built raises `SpecError`. Every error
that this package raises on purpose is a `RefusedError`, whose message is one line.
"""

from __future__ import annotations

import importlib

PLACES = {
    # Specs: what may be chosen.
    "Spec": "evolute.hw.spec:Spec",
    "Engine": "evolute.hw.spec:Engine",
    "LutTensorCore": "evolute.hw.spec:LutTensorCore",
    "Mac": "evolute.hw.spec:Mac",
    "BitSerial": "evolute.hw.spec:BitSerial",
    "VqCodebook": "evolute.hw.spec:VqCodebook",
    "LutDla": "evolute.hw.spec:LutDla",
    "LutStationary": "evolute.hw.spec:LutStationary",
    "CoreSpec": "evolute.hw.spec:CoreSpec",
    "Preset": "evolute.hw.spec.presets:Preset",
    "presets": "evolute.hw.spec.presets:PRESETS",
    "preset": "evolute.hw.spec.presets:preset",
    # Language models.
    "LanguageModel": "evolute.sw.language_model.model:LanguageModel",
    "KnownModel": "evolute.sw.checkpoints.zoo:KnownModel",
    "models": "evolute.sw.checkpoints.zoo:KNOWN",
    "load_model": "evolute.sw.checkpoints.zoo:load",
    "Quantized": "evolute.sw.quantizers.quantize:Quantized",
    "quantize": "evolute.sw.quantizers.quantize:quantize",
    "check_quantized": "evolute.sw.quantizers.quantize:check_quantized",
    # A model on an accelerator: what runs where, and what it costs.
    "Weights": "evolute.sw.tensors.weights:Weights",
    "parse_weights": "evolute.sw.tensors.weights:parse_weights",
    "Assignment": "evolute.sw.deploy.assignment:Assignment",
    "plan": "evolute.sw.deploy.assignment:assign",
    "Platform": "evolute.hw.spec.platform:Platform",
    "Metrics": "evolute.sim.cost.metrics:Metrics",
    "evaluate": "evolute.sim.cost.evaluate:evaluate",
    "Designs": "evolute.sim.cost.columns:Designs",
    "ColumnMetrics": "evolute.sim.cost.batch:ColumnMetrics",
    "Pass": "evolute.sim.workload.operations:Pass",
    "phase_of": "evolute.sim.cost.engine:phase_of",
    "evaluate_columns": "evolute.sim.cost.batch:evaluate_columns",
    # A model by its sizes, and whole tokens of it.
    "ModelShape": "evolute.sim.workload.shape:ModelShape",
    "ZooEntry": "evolute.sim.workload.zoo:ZooEntry",
    "zoo_entry": "evolute.sim.workload.zoo:zoo_entry",
    "CacheFormat": "evolute.sim.workload.operations:CacheFormat",
    "Serving": "evolute.sim.workload.serving:Serving",
    "Host": "evolute.sim.cost.token:Host",
    "Request": "evolute.sw.deploy.simulate:Request",
    "Simulation": "evolute.sw.deploy.simulate:Simulation",
    "parse_format": "evolute.sw.deploy.unweighted:parse_format",
    "head_format": "evolute.sw.deploy.unweighted:head_format",
    "simulate_shape": "evolute.sw.deploy.simulate:simulate_shape",
    "records": "evolute.reports.frames:records",
    # Hardware.
    "to_verilog": "evolute.hw.emit.export:to_verilog",
    "export": "evolute.hw.emit.export:write_export",
    "AsicResult": "evolute.hw.synthesis.asic:AsicResult",
    "FpgaResult": "evolute.hw.synthesis.synth:FpgaResult",
    "synthesize": "evolute.hw.synthesis.synth:synthesize",
    "split_area": "evolute.hw.synthesis.synth:split_area",
    "Report": "evolute.verif.harness.verify:Report",
    "verify": "evolute.verif.verification:verify",
    # What goes wrong.
    "RefusedError": "evolute.support.errors:RefusedError",
    "SpecError": "evolute.hw.spec:SpecError",
}
"""The Python API: name to `module:attribute`. `__init__.pyi` says the same to type checkers, and a
test holds the two together."""

__all__ = [*PLACES]  # pyright: ignore[reportUnsupportedDunderAll]  # listed in __init__.pyi


def __getattr__(name: str) -> object:
    """The object for a name in `PLACES`, which is imported on first use."""
    if name not in PLACES:
        raise AttributeError(f"module 'evolute' has no attribute {name!r}")
    module, _, attribute = PLACES[name].partition(":")
    value = getattr(importlib.import_module(module), attribute)
    globals()[name] = value
    return value


def __dir__() -> list[str]:
    return sorted({*globals(), *PLACES})

"""What may be chosen, what follows from it, and what is illegal. Standard library only."""

from hw.spec.base import Spec, SpecError
from hw.spec.core import CoreSpec
from hw.spec.lut_tensor_core import LutTensorCore

ENGINES: dict[str, type[Spec]] = {"lut_tensor_core": LutTensorCore}
"""Every engine's spec class by its file stem, the one name it has in all folders."""


def engine_of(spec: Spec) -> str:
    """The file stem of an engine's spec, or of the engine in a core's."""
    engine = spec.engine if isinstance(spec, CoreSpec) else spec
    return next(stem for stem, kind in ENGINES.items() if isinstance(engine, kind))


__all__ = ["ENGINES", "CoreSpec", "LutTensorCore", "Spec", "SpecError", "engine_of"]

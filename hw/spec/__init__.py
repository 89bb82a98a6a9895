"""What may be chosen, what follows from it, and what is illegal. Standard library only."""

from hw.spec.base import Spec, SpecError
from hw.spec.lut_tensor_core import LutTensorCore

ENGINES: dict[str, type[Spec]] = {"lut_tensor_core": LutTensorCore}
"""Every engine's spec class by its file stem, the one name it has in all folders."""


def engine_of(spec: Spec) -> str:
    """The file stem of the spec's engine."""
    return next(stem for stem, kind in ENGINES.items() if isinstance(spec, kind))


__all__ = ["ENGINES", "LutTensorCore", "Spec", "SpecError", "engine_of"]

"""The one definition of the words on an engine's streams.

RTL, packers and benches take every bit position from here, and those of weights from the engine's
own `weight_beat`.
"""

from __future__ import annotations

from dataclasses import dataclass
from functools import lru_cache

from evolute.hw.spec.beat import Beat, Field
from evolute.hw.spec.engine import PLANES_BITS, Engine

COUNT_BITS = 16
"""Width of the loop counts in a command: up to 65,536 tiles of up to 65,536 slices."""


@dataclass(frozen=True)
class EngineStreams:
    """The streams of an engine: what it takes and what it gives."""

    command: Beat
    activation: Beat
    weight: Beat
    result: Beat


STREAMS_MEANING = """\
The streams of the engine that `spec` describes.

- `command`, one per matrix multiplication: planes - 1; the mode, where there are several;
  K-slices per group - 1; K-slices per tile - 1 (the last group of a tile may be shorter);
  tiles - 1.
- `activation`, one per K-slice: x[m][slice_k]; for floating activations, whose codes x are, the
  exponent that each row shares; and, for rounded tables, the right shift of each row's entries.
  Exponent and shift must stay the same within a group. The host chooses the exponent, as it
  chooses the scale of integer activations: the highest exponent in the codes of the group or of
  the whole row. An exponent of 0 is read as 1, and one that no finite number has is read as the
  highest that a finite number has.
- `weight`, one per K-slice and plane: see the engine's `weight_beat`.
- `result`, one per group: psum[m][n] = sum of weights times x, as `Coding` counts weights, and
  row_sum[m] = sum of x. Where saturation is chosen, psum is saturated after each slice. For
  LUT-DLA x stands here for the one-hot rows, so that row_sum is the number of subspaces.
  Floating sums are codes of `hw.spec.floating.RESULT`.
"""
"""What the streams of an engine carry; text for readers of this module and of sidecars."""


@lru_cache(maxsize=64)
def streams(spec: Engine) -> EngineStreams:
    """The streams of the engine that `spec` describes, as `STREAMS_MEANING` says."""
    mode = [Field("mode", spec.mode_bits)] if spec.mode_bits else []
    kind = spec.activations
    x = Field("x", kind.code_bits, (spec.m, spec.slice_k), signed=kind.format is None)
    activation = [x]
    if spec.aligns:
        activation.append(Field("exponent", kind.exponent_bits, (spec.m,)))
    if spec.row_shift_bits:
        activation.append(Field("table_shift", spec.row_shift_bits, (spec.m,)))
    row_sum = [Field("row_sum", spec.row_sum_bits, (spec.m,), True)] if spec.row_sum_bits else []
    return EngineStreams(
        command=Beat(
            (
                Field("planes_minus_1", PLANES_BITS),
                *mode,
                Field("group_slices_minus_1", COUNT_BITS),
                Field("slices_minus_1", COUNT_BITS),
                Field("tiles_minus_1", COUNT_BITS),
            )
        ),
        activation=Beat(tuple(activation)),
        weight=spec.weight_beat,
        result=Beat(
            (
                Field("psum", spec.acc_bits, (spec.m, spec.n), signed=True),
                *row_sum,
            )
        ),
    )


def aligned(spec: Engine) -> Beat:
    """The layout of an activation beat after alignment: integers in place of floating codes, and no
    exponents. Only for an engine that aligns."""
    first, _, *others = streams(spec).activation.fields
    x = Field(first.name, spec.activation_bits, first.shape, signed=True)
    return Beat((x, *others))

"""What value: untimed NumPy models, bit-exact. `GOLDEN` finds the model of a spec."""

from collections.abc import Mapping
from typing import Any, Protocol

import numpy as np

from evolute.hw.spec import BitSerial, Engine, LutDla, LutTensorCore, Mac, VqCodebook
from evolute.sim.golden import bit_serial, lut_dla, lut_tensor_core, mac, vq_codebook
from evolute.sim.golden.sums import GroupSums


class Golden(Protocol):
    """What an engine's model has. `spec` is one of the engine's."""

    def encode(self, spec: Any, /, *weights: Any, **beside: Any) -> Any:
        """Weights of a layer in the form that `group_sums` takes them."""
        ...

    def group_sums(
        self, spec: Any, x: np.ndarray, weights: Any, shift: np.ndarray | None = None, /
    ) -> GroupSums:
        """Sums of every scale group for integer activations [M, K]; `shift` [M] are the rows' own
        where they have any."""
        ...

    def slice_sums(
        self,
        spec: Any,
        fields: Mapping[str, np.ndarray],
        x: np.ndarray,
        planes: int,
        mode: int,
        /,
    ) -> np.ndarray:
        """Sums of every slice, int64 [rows, slices, n], from the fields of weight beats and of the
        engine's own memories, for activations int [rows, slices, slice_k]."""
        ...


class Memories(Protocol):
    """The model of memories that a fill fills."""

    def contents(
        self, spec: Any, rng: np.random.Generator | None = None, /
    ) -> dict[str, np.ndarray]:
        """What they hold at first, zeros or noise, by the names that `slice_sums` knows them by."""
        ...

    def fill(
        self, spec: Any, fields: Mapping[str, np.ndarray], contents: dict[str, np.ndarray], /
    ) -> None:
        """Put the fields of a fill's weight beats in `contents`, which change."""
        ...


class RowShifts(Protocol):
    """The model of shifts that rows have of their own."""

    def table_shift(self, spec: Any, x: np.ndarray, group: int, /) -> np.ndarray:
        """The shift of every row of integer activations [M, K], in scale groups of `group`."""
        ...


GOLDEN: dict[type[Engine], Golden] = {
    LutTensorCore: lut_tensor_core,
    Mac: mac,
    BitSerial: bit_serial,
    VqCodebook: vq_codebook,
    LutDla: lut_dla,
}

MEMORIES: dict[type[Engine], Memories] = {VqCodebook: vq_codebook}
"""Of the engines that have fills."""

ROW_SHIFTS: dict[type[Engine], RowShifts] = {LutTensorCore: lut_tensor_core}
"""Of the engines whose rows have shifts."""

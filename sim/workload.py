"""What is to be computed: the linear layers of a model, as shapes."""

from __future__ import annotations

from dataclasses import dataclass

from hw.spec.formats import WeightCodes


@dataclass(frozen=True)
class Linear:
    """`count` equal linear layers: y[M, n] = x[M, k] @ w[n, k].T, with scale groups along k."""

    name: str
    n: int
    k: int
    weight_format: WeightCodes
    group: int
    count: int = 1

    @property
    def weights(self) -> int:
        """Weights of all `count` layers."""
        return self.n * self.k * self.count

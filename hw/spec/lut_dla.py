"""LUT-DLA: dot products are looked up in tables, by the centroid nearest to the activations.

LUT-DLA (Li et al., HPCA 2025, arXiv 2501.10658) replaces each v activations, a subspace of K, by
the index of the nearest of c centroids, learned beforehand, and the multiplication by a lookup:

    y[m, n] = sum over subspaces s of T[s, i(m, s), n],
    i(m, s) = argmin over j of d(x[m, s*v : (s+1)*v], C[s, j])

Of centroids at equal distances the one with the lowest index is taken, as `numpy.argmin` does.
T[s, j, n] is the dot product of centroid C[s, j] with the weights of output n, so that the weights
themselves are not needed. Seen as a matrix product, the tables are the weights, [N, c] per
subspace, and are multiplied by one-hot rows.

A K-slice is a subspace. Its table comes together with its centroids, `lanes` of them a beat, once
for all m rows: the paper's LUT-stationary order, in which rows are innermost. The paper's design
holds two banks of tables, and fills one while one row after another looks up in the other
(`hw.spec.lut_stationary`). Here entries are matched while they stream: each row compares the beat's
centroids, by a tree, and keeps the nearest one so far, with its table row, until the slice's last
beat adds what was kept. That needs neither banks nor indices: m * n table entries are kept in place
of 2 * c * n, with the same number of distance units per row and cycle.
"""

from __future__ import annotations

from dataclasses import dataclass

from evolute.hw.spec.base import require, require_range
from evolute.hw.spec.beat import Beat, Field
from evolute.hw.spec.engine import MOST_PLANES, Coding, Engine
from evolute.hw.spec.formats import Kind, WeightCodes

METRICS = ("l1", "l2", "chebyshev")
OVERFLOWS = ("exact", "saturate", "wrap")


def distance_bits(metric: str, v: int, bits: int) -> int:
    """Width of an unsigned distance, by `metric`, between two vectors of `v` components, each of
    which differs by less than 2^bits."""
    most = (1 << bits) - 1
    if metric == "l1":
        most *= v
    elif metric == "l2":
        most *= most * v
    return most.bit_length()


def require_sums(overflow: str, accumulator_bits: int | None, weight_bits: int) -> None:
    """Raise `SpecError` unless `accumulator_bits` go with `overflow`: None for exact sums, and
    between `weight_bits` and 32 for sums that saturate or wrap."""
    require(overflow in OVERFLOWS, "overflow", f"one of {', '.join(OVERFLOWS)}", overflow)
    if overflow == "exact":
        rule = "none where sums are exact"
        require(accumulator_bits is None, "accumulator_bits", rule, accumulator_bits)
    else:
        rule = f"in {weight_bits}..32 where sums {overflow}"
        inside = accumulator_bits is not None and weight_bits <= accumulator_bits <= 32
        require(inside, "accumulator_bits", rule, accumulator_bits)


@dataclass(frozen=True, kw_only=True)
class LutDla(Engine):
    """Choices of one LUT-DLA engine."""

    weight_bits: int = 8
    """Width of the widest table entry."""
    v: int = 4
    """Activations of one row in a subspace."""
    centroids: int = 16
    """Centroids of a subspace, a power of two."""
    lanes: int = 2
    """Centroids that each row compares per cycle, a power of two: from one to all of them."""
    metric: str = "l1"
    """Distance: `l1` sums the magnitudes of differences, `l2` their squares, and `chebyshev` takes
    the greatest magnitude."""
    overflow: str = "exact"
    """What becomes of a group's sum that exceeds its width: `saturate` or `wrap`. `exact` gives
    sums a width that they cannot exceed."""
    accumulator_bits: int | None = None
    """Width of a group's sum; None if `overflow` is `exact`."""

    def __post_init__(self) -> None:
        super().__post_init__()
        require_range("weight_bits", self.weight_bits, 2, 8)
        require_range("v", self.v, 1, 16)
        metrics = f"one of {', '.join(METRICS)}"
        require(self.metric in METRICS, "metric", metrics, self.metric)
        for name in ("centroids", "lanes"):
            value = getattr(self, name)
            require(value > 0 and value & (value - 1) == 0, name, "a power of two", value)
        require_range("centroids", self.centroids, 2, 64)
        least = -(-self.centroids // MOST_PLANES)
        require_range("lanes", self.lanes, least, self.centroids)
        require_sums(self.overflow, self.accumulator_bits, self.weight_bits)

    @property
    def slice_k(self) -> int:
        """Activations of one row that a K-slice has."""
        return self.v

    @property
    def slice_codes(self) -> int:
        """Table entries per output and K-slice."""
        return self.centroids

    def coding(self, codes: WeightCodes) -> Coding | None:
        """How the engine runs table entries of this format, or None if it cannot: in two's
        complement, a code q of `levels` as q - levels // 2, `lanes` entries per output and beat."""
        if codes.kind is not Kind.TABLE or codes.bits > self.weight_bits:
            return None
        planes = self.centroids // self.lanes
        return Coding(planes=planes, mode=0, scale=1, origin=-(codes.levels // 2))

    @property
    def weight_beat(self) -> Beat:
        meaning = (
            "centroid[lanes][v], the next centroids in the order of their indices, and "
            "entry[lanes][n], the entry of each for every output; both two's complement."
        )
        return Beat(
            (
                Field("centroid", self.activation_bits, (self.lanes, self.v), signed=True),
                Field("entry", self.weight_bits, (self.lanes, self.n), signed=True),
            ),
            meaning,
        )

    # Widths.

    @property
    def one_hot(self) -> bool:
        """Whether weights are multiplied by one-hot rows: table entries always are."""
        return True

    @property
    def step_bits(self) -> int:
        """Width of a table entry."""
        return self.weight_bits

    @property
    def acc_bits(self) -> int:
        """Width of a group's sum: `accumulator_bits`, or the least that cannot overflow."""
        return self.accumulator_bits or super().acc_bits

    @property
    def exact(self) -> bool:
        """Whether sums have a width that they cannot exceed."""
        return self.overflow == "exact"

    @property
    def saturates(self) -> bool:
        return self.overflow == "saturate"

    @property
    def distance_bits(self) -> int:
        """Width of an unsigned distance."""
        return distance_bits(self.metric, self.v, self.activation_bits)

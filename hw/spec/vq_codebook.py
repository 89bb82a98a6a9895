"""Vector-quantized weights, consumed as they are stored: indices into codebooks on the chip.

VPTQ (Liu et al., EMNLP 2024, arXiv 2409.17066) stores v weights as the index of a codeword, and
optionally a second index, of a codeword that is added to the first, from a residual codebook. Here
components are integers; a group's scale comes after its sum, as in `mac`. Codewords lie

- along `outputs`, as VPTQ publishes them: one is multiplied by one activation and serves v outputs;
- or along `inputs`: one is multiplied by v activations and serves one output.

There are two forms of the engine, each for both directions:

- `gather`: every lane has its own copy of the codebooks in a memory, whose output register takes
  the place of the weights' register, so that lookups never collide and cost no cycle. Then all
  weights are multiplied.
- `table`: the products of the slice's activations with every codeword of a codebook are computed
  once, and all n outputs look them up. Along inputs these are dot products, `entries` * k
  multiplications where `gather` has n * k. Along outputs they are products with every component,
  `entries` * v * k of them. So this form pays with few entries and many outputs.

Codebooks arrive on the weight stream, by a command of their own (`Engine.fills`).

VPTQ's outlier columns have a codebook of their own, whose codewords are shorter (section 3.3). With
`short_v` a gather takes such codewords, too. A slice then takes v / short_v beats: each of them
looks up one short codeword for every lane, for short_v of the lane's outputs, while the weights of
its other outputs are 0. A short codeword is repeated in its entry until the entry is full, so that
its components are wherever a beat needs them. That costs v / short_v cycles per slice, where
memories for short codewords alone would cost area.
"""

from __future__ import annotations

from dataclasses import dataclass
from functools import cached_property

from evolute.hw.spec.base import require, require_range
from evolute.hw.spec.beat import Beat, Field
from evolute.hw.spec.engine import MOST_PLANES, Coding, Engine, Fill
from evolute.hw.spec.formats import Kind, WeightCodes

ALONG = ("outputs", "inputs")
FORMS = ("gather", "table")

FILL_MODE = 1
"""The mode of a command that fills the codebooks; a multiplication has mode 0."""

SHORT_MODE = 2
"""The mode of a command that multiplies by short codewords."""

_MOST_ENTRIES = 1 << 15


def _is_power_of_two(value: int) -> bool:
    return value > 0 and value & (value - 1) == 0


@dataclass(frozen=True, kw_only=True)
class VqCodebook(Engine):
    """Choices of one engine for vector-quantized weights."""

    weight_bits: int = 8
    """Width of the widest weight, and of a component of a codeword. With a residual codebook
    components have one bit less, so that no sum of two overflows."""
    k: int = 4
    """Activations of one row per K-slice; not a layer's depth."""
    v: int = 4
    """Weights of one codeword."""
    along: str = "outputs"
    """The direction in which a codeword lies: along `outputs` or `inputs`."""
    entries: int = 256
    """Codewords of the codebook, a power of two."""
    residual_entries: int = 0
    """Codewords of the residual codebook, a power of two, or 0 for none."""
    short_v: int = 0
    """Weights of a short codeword, a divisor of v that is less than v, or 0 for none."""
    form: str = "gather"
    """`gather`: codewords are looked up and multiplied. `table`: their products with the
    activations are looked up."""

    def __post_init__(self) -> None:
        super().__post_init__()
        require_range("k", self.k, 1, 128)
        require_range("v", self.v, 1, 16)
        require(self.along in ALONG, "along", f"one of {', '.join(ALONG)}", self.along)
        require(self.form in FORMS, "form", f"one of {', '.join(FORMS)}", self.form)
        require_range("weight_bits", self.weight_bits, 3 if self.residual_entries else 2, 8)
        name = "n" if self.along == "outputs" else "k"
        extent = getattr(self, name)
        require(extent % self.v == 0, name, f"a multiple of v = {self.v}", extent)
        sizes = {"entries": self.entries}
        if self.residual_entries:
            sizes["residual_entries"] = self.residual_entries
        for field, size in sizes.items():
            require_range(field, size, 2, _MOST_ENTRIES)
            require(_is_power_of_two(size), field, "a power of two", size)
        if self.short_v:
            rule = f"0, or for a gather along outputs a divisor of v = {self.v} below it"
            plain = self.form == "gather" and self.along == "outputs"
            divides = 0 < self.short_v < self.v and self.v % self.short_v == 0
            require(plain and divides, "short_v", rule, self.short_v)
            require_range("v / short_v", self.short_planes, 2, MOST_PLANES)
        most = self.fill_planes * self.beat_bits
        rule = f"wide enough for a codeword of {self.codeword_bits} bits in {MOST_PLANES} beats"
        require(most >= self.codeword_bits, "weight beat", rule, self.beat_bits)

    # What the choices mean.

    @property
    def slice_k(self) -> int:
        """Activations of one row that a K-slice has."""
        return self.k

    @property
    def codebooks(self) -> tuple[int, ...]:
        """Entries of each codebook, the residual one last."""
        return (self.entries, self.residual_entries) if self.residual_entries else (self.entries,)

    @property
    def entry_bits(self) -> int:
        """Width of a component of a codeword, in two's complement."""
        return self.weight_bits - bool(self.residual_entries)

    @property
    def codeword_bits(self) -> int:
        """Width of a whole codeword."""
        return self.v * self.entry_bits

    @property
    def index_shape(self) -> tuple[int, int]:
        """Codewords of one slice: [n / v, k] along outputs, [n, k / v] along inputs."""
        if self.along == "outputs":
            return self.n // self.v, self.k
        return self.n, self.k // self.v

    @property
    def lanes(self) -> int:
        """Codewords that a step looks up in each codebook."""
        return self.index_shape[0] * self.index_shape[1]

    @property
    def index_bits(self) -> int:
        """Width of the indices that select one codeword: the codebook's, and above it the residual
        codebook's."""
        return sum(size.bit_length() - 1 for size in self.codebooks)

    @property
    def beat_bits(self) -> int:
        """Width of a weight beat."""
        return self.lanes * self.index_bits

    @property
    def short_planes(self) -> int:
        """Weight beats per K-slice of short codewords."""
        return self.v // self.short_v

    def coding(self, codes: WeightCodes) -> Coding | None:
        """How the engine runs weights of this format, or None if it cannot: a component of code q
        of `levels` multiplies by q - levels // 2."""
        origin = -(codes.levels // 2)
        if codes.bits > self.weight_bits:
            return None
        if codes.kind is Kind.VECTOR:
            return Coding(planes=1, mode=0, scale=1, origin=origin)
        if codes.kind is Kind.SHORT and self.short_v:
            return Coding(planes=self.short_planes, mode=SHORT_MODE, scale=1, origin=origin)
        return None

    @property
    def weight_beat(self) -> Beat:
        meaning = (
            "index[n/v][k], or [n][k/v] for codewords along inputs: the codebook's index and above "
            "it the residual's. Plane i of short codewords has those of the i-th part of every v "
            "outputs. In a fill a beat carries the components, in two's complement, of whole "
            "codewords or of one part of a codeword."
        )
        return Beat((Field("index", self.index_bits, self.index_shape),), meaning)

    def codeword_kind(self, v: int) -> Kind:
        """The kind of format in which codewords of `v` weights run: short ones have their own."""
        return Kind.SHORT if v == self.short_v else Kind.VECTOR

    # Filling.

    @cached_property
    def fill_planes(self) -> int:
        """Weight beats over which a codeword is spread in a fill: the fewest equal parts that fit
        into a beat."""
        divisors = [parts for parts in range(1, MOST_PLANES + 1) if self.v % parts == 0]
        fitting = (parts for parts in divisors if self.codeword_bits // parts <= self.beat_bits)
        return next(fitting, divisors[-1])

    @cached_property
    def fill_codewords(self) -> int:
        """Codewords in one weight beat of a fill. A memory takes one at a time. Registers take the
        largest power of two that fits into a beat and into every codebook."""
        if self.form == "gather":
            return 1
        most = min(max(1, self.beat_bits // self.codeword_bits), *self.codebooks)
        return 1 << (most.bit_length() - 1)

    @property
    def fills(self) -> tuple[Fill, ...]:
        """The command that fills all codebooks together."""
        slices = sum(self.codebooks) // self.fill_codewords
        tables = self.form == "table"  # tables are computed from codebooks
        return (Fill(FILL_MODE, slices, self.fill_planes, self.codewords, feeds_operands=tables),)

    @property
    def codewords(self) -> Beat:
        """The layout of a weight beat in a fill: the components, in two's complement, of whole
        codewords, [fill_codewords][v], or of one part of a codeword, [1][v / fill_planes].

        A fill goes through the codebook and then the residual one, index by index. Its planes are
        the parts of each codeword, from the first component on. A short codeword is repeated until
        its components are v.
        """
        shape = (self.fill_codewords, self.v // self.fill_planes)
        return Beat((Field("component", self.entry_bits, shape, signed=True),))

    # Widths.

    @property
    def table_terms(self) -> int:
        """Products that are summed in one value of a table."""
        return 1 if self.along == "outputs" else self.v

    @property
    def table_values(self) -> int:
        """Values of a table per codeword."""
        return self.v // self.table_terms

    @property
    def table_bits(self) -> int:
        """Width of one value of a table."""
        return self.products_bits(self.table_terms, self.entry_bits)

    @property
    def step_bits(self) -> int:
        """Width of the sum of k products."""
        return self.products_bits(self.k, self.weight_bits)

    @property
    def operand_latency_cycles(self) -> int:
        """As for all engines, and one more cycle where registers hold tables."""
        return super().operand_latency_cycles + (self.form == "table")

"""Vector-quantized weights, consumed as they are stored: indices into codebooks on the chip.

VPTQ (Liu et al., EMNLP 2024, arXiv 2409.17066) stores v weights as the index of a codeword, and
optionally a second index, of a codeword that is added to the first, from a residual codebook. Here
components are integers; a group's scale comes after its sum, as in `mac`. Codewords lie

- along `outputs`, as VPTQ publishes them: one meets one activation and serves v outputs; or
- along `inputs`: one meets v activations and serves one output.

Each form has its use for either:

- `gather`: every lane has its own copy of the codebooks in memory, whose output register takes the
  place of the weights' register, so that lookups never collide and cost no cycle; then all weights
  are multiplied.
- `table`: what the slice's activations come to with every codeword of a codebook is computed once,
  for all n outputs, which look it up. Along inputs these are dot products, `entries` * k
  multiplications where `gather` has n * k; along outputs products with every component,
  `entries` * v * k of them. So it pays with few entries and many outputs.

Codebooks come in band, by a command of their own (`Engine.fills`).

VPTQ's outlier columns have a codebook of their own, whose codewords are shorter (section 3.3). With
`short_v` a gather takes such, too: in as many beats as one of v has of them, each of which looks
the next one up for every lane, while all other components of the lane count as 0. A short codeword
lies in its entry as often as it fits, so that its components are wherever a beat needs them. That
takes v / short_v cycles where a codebook of short codewords alone would take more memories.
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
"""What a command calls the fill of the codebooks; a multiplication is mode 0."""

SHORT_MODE = 2
"""What a command calls a multiplication by short codewords."""

_MOST_ENTRIES = 1 << 15


def _is_power_of_two(value: int) -> bool:
    return value > 0 and value & (value - 1) == 0


@dataclass(frozen=True, kw_only=True)
class VqCodebook(Engine):
    """Choices of one engine for vector-quantized weights.

    A weight has up to `weight_bits`, and so has a component of a codeword; with a residual codebook
    components have one bit less, so that no sum of two overflows.
    """

    weight_bits: int = 8
    k: int = 4
    """Activations of one row per K-slice."""
    v: int = 4
    """Weights of one codeword."""
    along: str = "outputs"
    """Along what a codeword lies: outputs or inputs."""
    entries: int = 256
    """Codewords of the codebook, a power of two."""
    residual_entries: int = 0
    """Codewords of the residual codebook, a power of two, or 0 for none."""
    short_v: int = 0
    """Weights of a short codeword, a divisor of v below it, or 0 where there are none."""
    form: str = "gather"
    """Whether codewords are gathered and multiplied, or looked up in a table of their products."""

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
        for each, size in sizes.items():
            require_range(each, size, 2, _MOST_ENTRIES)
            require(_is_power_of_two(size), each, "a power of two", size)
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
        """Activations of one row consumed per K-slice."""
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
        """Width of what stands for one codeword: its index, and above it the residual's."""
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
        """Components are what weights multiply by: a code q of `levels` by q - levels // 2."""
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
            "index[n/v][k], or [n][k/v] of codewords along inputs: the codebook's index and above "
            "it the residual's. Of short codewords plane i has those of the i-th part of every n/v "
            "outputs. In a fill a beat carries components in two's complement of whole codewords, "
            "or of one part of a codeword."
        )
        return Beat((Field("index", self.index_bits, self.index_shape),), meaning)

    def codeword_kind(self, v: int) -> Kind:
        """Short ones have a kind of their own."""
        return Kind.SHORT if v == self.short_v else Kind.VECTOR

    # Filling.

    @cached_property
    def fill_planes(self) -> int:
        """Weight beats into which a codeword is cut: the fewest equal parts that fit."""
        parts = [each for each in range(1, MOST_PLANES + 1) if self.v % each == 0]
        fitting = (each for each in parts if self.codeword_bits // each <= self.beat_bits)
        return next(fitting, parts[-1])

    @cached_property
    def fill_codewords(self) -> int:
        """Codewords in one weight beat of a fill. A memory takes one at a time; registers as many
        as fit, by a power of two, without a beat for both codebooks."""
        if self.form == "gather":
            return 1
        most = min(max(1, self.beat_bits // self.codeword_bits), *self.codebooks)
        return 1 << (most.bit_length() - 1)

    @property
    def fills(self) -> tuple[Fill, ...]:
        """One, for all codebooks together."""
        slices = sum(self.codebooks) // self.fill_codewords
        tables = self.form == "table"  # which are made of codebooks
        return (Fill(FILL_MODE, slices, self.fill_planes, self.codewords, feeds_operands=tables),)

    @property
    def codewords(self) -> Beat:
        """What a weight beat carries in a fill: components in two's complement of whole codewords,
        [fill_codewords][v], or of one part of a codeword, [1][v / fill_planes].

        A fill goes through the codebook and then the residual one, index by index; of each
        codeword, plane by plane, through its parts from the first component on. Of short codewords
        each is there as often as one of v weights has them.
        """
        shape = (self.fill_codewords, self.v // self.fill_planes)
        return Beat((Field("component", self.entry_bits, shape, signed=True),))

    # Widths.

    @property
    def table_terms(self) -> int:
        """Products summed in one value of a table."""
        return 1 if self.along == "outputs" else self.v

    @property
    def table_values(self) -> int:
        """Values of a table for each codeword."""
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
        """One more register where there are tables."""
        return super().operand_latency_cycles + (self.form == "table")

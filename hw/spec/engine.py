"""What every engine has in common: the choices and numbers that a core, a schedule and a bench ask
for. An engine multiplies [M, K] integer activations by [N, K] weight codes, tile by tile, and gives
one exact sum per output and scale group.

Engines run in lock step: of every K-slice they take one beat of activations and `Coding.planes`
beats of weights, one beat per `beat_steps` cycles, for all m rows and n columns at once.
"""

from __future__ import annotations

import abc
from collections.abc import Mapping
from dataclasses import dataclass
from functools import cached_property

from evolute.hw.spec.base import Spec, SpecError, require, require_range
from evolute.hw.spec.beat import Beat
from evolute.hw.spec.formats import FLOATS, FORMATS, Activations, Kind, WeightCodes

PLANES_BITS = 3
"""Width of a command's count of weight beats per K-slice, which is stored less one."""

MOST_PLANES = 1 << PLANES_BITS
"""Most weight beats per K-slice."""


def largest_divisor(number: int, most: int) -> int:
    """The largest divisor of `number` that is at most `most`; both are above 0."""
    divisor = min(number, most)
    while number % divisor:
        divisor -= 1
    return divisor


@dataclass(frozen=True)
class Coding:
    """How an engine runs weights of one format.

    A code that counts as v adds (scale * v + origin) * x to the engine's sum. An origin other than
    0 is only for formats whose groups have an offset that can take it back.
    """

    planes: int
    """Weight beats per K-slice."""
    mode: int
    """What a command calls the format."""
    scale: int
    origin: int

    def values(self, codes: WeightCodes, special: int = 0) -> tuple[int, ...]:
        """The integers by which the engine multiplies, for each code."""
        return tuple(self.scale * value + self.origin for value in codes.values(special))

    def maximum(self, codes: WeightCodes) -> int:
        """The largest magnitude of any of them."""
        specials = range(max(1, len(codes.specials)))
        return max(abs(value) for each in specials for value in self.values(codes, each))


@dataclass(frozen=True)
class Fill:
    """A command whose weight beats the engine keeps, in the one step of each, without activations
    and without a result: `slices` of `planes` beats."""

    mode: int
    slices: int
    planes: int
    beat: Beat
    """What a weight beat carries in the fill, from its lowest bit."""
    feeds_operands: bool
    """Whether operands are made of what is kept. Then they are made while their command is in
    force, a cycle after the one before has ended."""


@dataclass(frozen=True, kw_only=True)
class Engine(Spec, abc.ABC):
    """Choices that every engine has. A subclass adds its own, and defines what is abstract here."""

    m: int = 1
    """Rows of activations (tokens) held at once."""
    n: int = 64
    """Columns (outputs) that share each activation."""
    activation_bits: int = 8
    """Width of the signed activations."""
    activation_format: str = "int"
    """What activations come as: `int`, or a floating format of `hw.spec.formats` that is aligned to
    integers of `activation_bits`."""
    weight_bits: int = 4
    """Widest weight the engine can run; the format in use is chosen at run time."""
    group_size: int = 128
    """Longest run of K that one accumulator sums before it is read out."""

    def __post_init__(self) -> None:
        super().__post_init__()
        require_range("m", self.m, 1, 64)
        require_range("n", self.n, 1, 512)
        require_range("activation_bits", self.activation_bits, 4, 16)
        names = ("int", *FLOATS)
        require(
            self.activation_format in names,
            "activation_format",
            f"one of {', '.join(names)}",
            self.activation_format,
        )
        require_range("weight_bits", self.weight_bits, 1, 8)
        require_range("group_size", self.group_size, 1, 16384)

    @cached_property
    def activations(self) -> Activations:
        return Activations(self.activation_bits, FLOATS.get(self.activation_format))

    @property
    def aligns(self) -> bool:
        """Whether activations come floating and are aligned."""
        return self.activations.format is not None

    @property
    def group_slices(self) -> int:
        """Most K-slices in one group."""
        return -(-self.group_size // self.slice_k)

    # Weights.

    @cached_property
    def formats(self) -> tuple[WeightCodes, ...]:
        """The weight formats that run on this engine, the simplest first."""
        return tuple(each for each in FORMATS if self.coding(each) is not None)

    def accepts(self, codes: WeightCodes) -> bool:
        """Whether weights of this format run on this engine."""
        return self.coding(codes) is not None

    def coding_of(self, codes: WeightCodes) -> Coding:
        """How weights of this format run. Raises `SpecError` if they do not."""
        coding = self.coding(codes)
        if coding is None:
            names = ", ".join(each.name for each in self.formats)
            raise SpecError("weights", f"one of {names} on this engine", codes.name)
        return coding

    def codeword_kind(self, v: int) -> Kind:
        """The kind of formats in which codewords of v weights run, if they do."""
        return Kind.VECTOR

    def slice_steps(self, codes: WeightCodes) -> int:
        """Cycles that a K-slice of such weights takes at most."""
        coding = self.coding_of(codes)
        return coding.planes * self.beat_steps(coding.mode)

    @cached_property
    def modes(self) -> Mapping[int, range]:
        """The modes that a command can name, each with the planes that it can have."""
        found: dict[int, list[int]] = {}
        for codes in self.formats:
            coding = self.coding_of(codes)
            found.setdefault(coding.mode, []).append(coding.planes)
        return {mode: range(min(each), max(each) + 1) for mode, each in sorted(found.items())}

    @property
    def fills(self) -> tuple[Fill, ...]:
        """The commands that fill the engine's own memories."""
        return ()

    @property
    def most_planes(self) -> int:
        """The most weight beats that a command can have of every K-slice."""
        planes = [each[-1] for each in self.modes.values()]
        return max([*planes, *(fill.planes for fill in self.fills)])

    @property
    def mode_bits(self) -> int:
        """Width of a command's mode."""
        return max([*self.modes, *(fill.mode for fill in self.fills)]).bit_length()

    @property
    def slice_codes(self) -> int:
        """Weight codes of one output per K-slice."""
        return self.slice_k

    # Widths.

    @property
    def one_hot(self) -> bool:
        """Whether weights meet, in the place of a slice's activations, a one-hot row made of them.

        What is said of sums of activations then holds for these rows.
        """
        return False

    @property
    def slice_maximum(self) -> int:
        """Largest magnitude of the sum of one row's activations over a slice."""
        return 1 if self.one_hot else self.slice_k * self.activations.maximum

    @property
    def slice_sum_bits(self) -> int:
        """Width of the sum of one row's activations over a slice."""
        return self.slice_maximum.bit_length() + 1

    @property
    def row_sum_bits(self) -> int:
        """Width of the sum of one row's activations over a group."""
        return (self.slice_maximum * self.group_slices).bit_length() + 1

    @cached_property
    def group_maximum(self) -> int:
        """Largest magnitude that a group's sum can reach."""
        weight_maximum = max(self.coding_of(each).maximum(each) for each in self.formats)
        return weight_maximum * self.slice_maximum * self.group_slices

    @property
    def acc_bits(self) -> int:
        """Width of a group's sum: the least that cannot overflow."""
        return self.group_maximum.bit_length() + 1

    def products_bits(self, count: int, bits: int) -> int:
        """Width of a sum of so many products of an activation and a two's complement integer."""
        return (count * self.activations.maximum << (bits - 1)).bit_length() + 1

    # What differs.

    @property
    @abc.abstractmethod
    def weight_beat(self) -> Beat:
        """A beat of weights, one per K-slice and plane, with its meaning in words."""

    @cached_property
    def weight_beat_bytes(self) -> int:
        """Bytes of a beat of weights in memory."""
        return -(-self.weight_beat.bits // 8)

    @abc.abstractmethod
    def coding(self, codes: WeightCodes) -> Coding | None:
        """How weights of this format run; None if they do not."""

    @property
    @abc.abstractmethod
    def slice_k(self) -> int:
        """Activations of one row consumed per K-slice."""

    @property
    @abc.abstractmethod
    def step_bits(self) -> int:
        """Width of what one step adds to an output's sum, before its shift."""

    @property
    def shifts(self) -> tuple[int, ...]:
        """The left shifts with which a step can be added; 0 alone where it takes whole weights."""
        return (0,)

    @property
    def operand_latency_cycles(self) -> int:
        """Cycles from an activation beat's transfer until a step can use it, as many registers:
        hold activations, hold them aligned where they are floating; an engine may add one for what
        it makes of them."""
        return 2 if self.aligns else 1

    @property
    def operands_are_filled(self) -> bool:
        """Whether operands are made of what a fill keeps."""
        return any(fill.feeds_operands for fill in self.fills)

    def read_out_slices(self, group: int) -> int:
        """The number of K-slices after which the engine reads its sums out.

        A scale group has `group` activations. All its slices are summed before a read-out if they
        fit `group_slices`; otherwise the group is cut into equal parts, the largest that fit.
        """
        return largest_divisor(-(-group // self.slice_k), self.group_slices)

    @property
    def weight_latency_cycles(self) -> int:
        """Cycles from a weight beat's transfer until a step can use it, or a fill keeps it: one,
        for the register that holds the beat."""
        return 1

    def beat_steps(self, mode: int) -> int:
        """Cycles for which one weight beat is used; the most if they depend on its weights."""
        return 1

    @property
    def steps_are_fixed(self) -> bool:
        """Whether all weight beats of a mode take as many steps."""
        return True

    @property
    def exact(self) -> bool:
        """Whether sums are exact."""
        return True

    @property
    def row_shift_bits(self) -> int:
        """Width of the shift that a row of an activation beat has of its own, by which its sums
        count; 0 where rows have none."""
        return 0

    @property
    def saturates(self) -> bool:
        """Whether sums stop at the ends of their range; else they count modulo 2^acc_bits."""
        return False

    @property
    def most_beat_steps(self) -> int:
        """The most that `beat_steps` can be."""
        return max(map(self.beat_steps, self.modes))

    @property
    def step_latency_cycles(self) -> int:
        """Cycles from a step until the sums that hold it can be read: multiply and reduce,
        accumulate."""
        return 2

    @property
    def keeps_results(self) -> bool:
        """Whether a group's sums leave their accumulators for registers of their own.

        Then of the steps after a result only the one that ends the next group waits until that
        result has left; else every step does.
        """
        return False

    @property
    def result_period_cycles(self) -> int:
        """Cycles from one result's transfer to the next at the soonest."""
        return self.step_latency_cycles if self.keeps_results else 1

    @property
    def macs_per_step(self) -> int:
        """Multiply-accumulates that a step takes part in; a MAC takes `slice_steps`."""
        return self.m * self.n * self.slice_k

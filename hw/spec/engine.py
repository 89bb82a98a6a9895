"""What every engine has in common: the choices and numbers that a core, a schedule and a bench ask
for. An engine multiplies [M, K] integer activations by [N, K] weight codes, tile by tile, and gives
one exact sum per output and scale group.

K, the depth, is cut into K-slices of `slice_k` activations. For every K-slice an engine takes one
beat of activations and `Coding.planes` beats of weights, and uses each weight beat for `beat_steps`
cycles, for all m rows and n columns of a tile at once.
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
"""Width of the field of a command that holds the number of weight beats per K-slice, less one."""

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

    A code that counts as v adds (scale * v + origin) * x to the engine's sum, where x is the
    activation. Only formats whose groups have an offset, by which the host or the core can correct
    the sum, may have an origin other than 0.
    """

    planes: int
    """Weight beats per K-slice."""
    mode: int
    """The number that stands for the format in a command."""
    scale: int
    """Factor by which the engine's weight is larger than what the code counts as."""
    origin: int
    """The engine's weight for a code that counts as 0."""

    def values(self, codes: WeightCodes, special: int = 0) -> tuple[int, ...]:
        """The integer by which the engine multiplies, for every code from 0 upwards, in a group
        with the special value of index `special`."""
        return tuple(self.scale * value + self.origin for value in codes.values(special))

    def maximum(self, codes: WeightCodes) -> int:
        """The largest magnitude of an integer by which the engine multiplies."""
        specials = range(max(1, len(codes.specials)))
        return max(abs(value) for special in specials for value in self.values(codes, special))


@dataclass(frozen=True)
class Fill:
    """A command that fills memories of the engine itself, such as codebooks.

    The engine keeps what its weight beats carry, one beat per step. It takes no activations and
    gives no result.
    """

    mode: int
    """The number that stands for this fill in a command."""
    slices: int
    """K-slices of the command."""
    planes: int
    """Weight beats per K-slice."""
    beat: Beat
    """The fields of a weight beat in this fill, from its lowest bit."""
    feeds_operands: bool
    """Whether the operands of a multiplication are computed from what the fill keeps. They are then
    computed while the multiplication's own command is in force, so not before the cycle after the
    previous command has ended."""


@dataclass(frozen=True, kw_only=True)
class Engine(Spec, abc.ABC):
    """Choices that every engine has. A subclass adds its own and defines what is abstract here."""

    m: int = 1
    """Rows of activations (tokens) that the engine multiplies at once."""
    n: int = 64
    """Columns (outputs) that share every activation."""
    activation_bits: int = 8
    """Width of the signed integer activations."""
    activation_format: str = "int"
    """The format in which activations arrive: `int`, or a floating format of `hw.spec.formats`,
    which the engine aligns to integers of `activation_bits`."""
    weight_bits: int = 4
    """Width of the widest weight that the engine can run. A command chooses the format in use."""
    group_size: int = 128
    """Most activations along K that one accumulator sums before it is read out."""

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
        """The format of activations."""
        return Activations(self.activation_bits, FLOATS.get(self.activation_format))

    @property
    def aligns(self) -> bool:
        """Whether activations arrive as floating numbers and are aligned to integers."""
        return self.activations.format is not None

    @property
    def group_slices(self) -> int:
        """Most K-slices in one scale group."""
        return -(-self.group_size // self.slice_k)

    # Weights.

    @cached_property
    def formats(self) -> tuple[WeightCodes, ...]:
        """The weight formats that run on this engine, the simplest first."""
        return tuple(codes for codes in FORMATS if self.coding(codes) is not None)

    def accepts(self, codes: WeightCodes) -> bool:
        """Whether weights of this format run on this engine."""
        return self.coding(codes) is not None

    def coding_of(self, codes: WeightCodes) -> Coding:
        """How the engine runs weights of this format. Raises `SpecError` if it cannot."""
        coding = self.coding(codes)
        if coding is None:
            names = ", ".join(runnable.name for runnable in self.formats)
            raise SpecError("weights", f"one of {names} on this engine", codes.name)
        return coding

    def codeword_kind(self, v: int) -> Kind:
        """The kind of format in which codewords of `v` weights run, if the engine runs any."""
        return Kind.VECTOR

    def slice_steps(self, codes: WeightCodes) -> int:
        """The most cycles that a K-slice of such weights takes."""
        coding = self.coding_of(codes)
        return coding.planes * self.beat_steps(coding.mode)

    @cached_property
    def modes(self) -> Mapping[int, range]:
        """The modes that a multiplication can have, and the range of its planes in each."""
        planes_of_modes: dict[int, list[int]] = {}
        for codes in self.formats:
            coding = self.coding_of(codes)
            planes_of_modes.setdefault(coding.mode, []).append(coding.planes)
        return {
            mode: range(min(planes), max(planes) + 1)
            for mode, planes in sorted(planes_of_modes.items())
        }

    @property
    def fills(self) -> tuple[Fill, ...]:
        """The commands that fill the engine's own memories."""
        return ()

    @property
    def most_planes(self) -> int:
        """The most weight beats per K-slice that a command can have."""
        planes = [choices[-1] for choices in self.modes.values()]
        return max([*planes, *(fill.planes for fill in self.fills)])

    @property
    def mode_bits(self) -> int:
        """Width of a command's mode."""
        return max([*self.modes, *(fill.mode for fill in self.fills)]).bit_length()

    @property
    def slice_codes(self) -> int:
        """Weight codes per output and K-slice."""
        return self.slice_k

    # Widths.

    @property
    def one_hot(self) -> bool:
        """Whether weights are multiplied by one-hot rows, which are made of the activations, and
        not by the activations themselves.

        Sums of activations, such as `row_sum`, are then sums over these rows.
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
        weight_maximum = max(self.coding_of(codes).maximum(codes) for codes in self.formats)
        return weight_maximum * self.slice_maximum * self.group_slices

    @property
    def acc_bits(self) -> int:
        """Width of a group's sum: the least that cannot overflow."""
        return self.group_maximum.bit_length() + 1

    def products_bits(self, count: int, bits: int) -> int:
        """Width of a sum of `count` products of an activation and a two's complement integer of
        `bits` bits."""
        return (count * self.activations.maximum << (bits - 1)).bit_length() + 1

    # What differs.

    @property
    @abc.abstractmethod
    def weight_beat(self) -> Beat:
        """The layout of a weight beat, of which there is one per K-slice and plane, and its meaning
        in words."""

    @cached_property
    def weight_beat_bytes(self) -> int:
        """Bytes of a beat of weights in memory."""
        return -(-self.weight_beat.bits // 8)

    @abc.abstractmethod
    def coding(self, codes: WeightCodes) -> Coding | None:
        """How the engine runs weights of this format, or None if it cannot."""

    @property
    @abc.abstractmethod
    def slice_k(self) -> int:
        """Activations of one row that a K-slice has."""

    @property
    @abc.abstractmethod
    def step_bits(self) -> int:
        """Width of the number that one step adds to an output's sum, before it is shifted."""

    @property
    def shifts(self) -> tuple[int, ...]:
        """The left shifts that a step's number can have before it is added; only 0 where a step
        takes whole weights."""
        return (0,)

    @property
    def operand_latency_cycles(self) -> int:
        """Cycles from an activation beat's transfer until a step can use it, one per register on
        the way: the first holds the activations, the second holds them aligned, if they are
        floating. An engine that computes something from them, such as a table, adds one."""
        return 2 if self.aligns else 1

    @property
    def operands_are_filled(self) -> bool:
        """Whether operands are computed from what a fill keeps."""
        return any(fill.feeds_operands for fill in self.fills)

    def read_out_slices(self, group: int) -> int:
        """The number of K-slices after which the engine reads its sums out.

        A scale group has `group` activations. All its slices are summed before a read-out if they
        fit `group_slices`; otherwise the group is cut into equal parts, the largest that fit.
        """
        return largest_divisor(-(-group // self.slice_k), self.group_slices)

    @property
    def weight_latency_cycles(self) -> int:
        """Cycles from a weight beat's transfer until a step can use it or a fill keeps it: one, for
        the register that holds the beat."""
        return 1

    def beat_steps(self, mode: int) -> int:
        """Cycles for which one weight beat is used in this mode, or the most of them where the
        number depends on the beat's weights."""
        return 1

    @property
    def steps_are_fixed(self) -> bool:
        """Whether all weight beats of a mode take the same number of steps."""
        return True

    @property
    def exact(self) -> bool:
        """Whether sums are exact, neither rounded nor cut to a width that they can exceed."""
        return True

    @property
    def row_shift_bits(self) -> int:
        """Width of the shift that an activation beat has for every row: the row's sums count that
        power of two. 0 where rows have no shift."""
        return 0

    @property
    def saturates(self) -> bool:
        """Whether a sum that would leave its range stays at the end of it. Otherwise sums are
        modulo 2^acc_bits."""
        return False

    @property
    def most_beat_steps(self) -> int:
        """The largest `beat_steps` of any mode."""
        return max(map(self.beat_steps, self.modes))

    @property
    def step_latency_cycles(self) -> int:
        """Cycles from a step until the sums that include it can be read: one to multiply and
        reduce, one to accumulate."""
        return 2

    @property
    def keeps_results(self) -> bool:
        """Whether a group's sums move from their accumulators to registers of their own.

        If they do, steps go on while a result waits to leave, and only the step that ends the next
        group has to wait for it. If not, every step after a result waits until it has left.
        """
        return False

    @property
    def result_period_cycles(self) -> int:
        """The fewest cycles from one result's transfer to the next."""
        return self.step_latency_cycles if self.keeps_results else 1

    @property
    def macs_per_step(self) -> int:
        """Multiply-accumulates that a step works on. Each is complete after `slice_steps` steps."""
        return self.m * self.n * self.slice_k

"""Turns floating activations into integers that share an exponent, as `hw.spec.formats.Activations`
defines it.

Each activation takes one subtraction and one right shift; a flag collects the ones that are shifted
out, for rounding. Conditional negation and rounding are one increment.
"""

from amaranth.hdl import Cat, Const, Module, Mux, Value

from evolute.hw.rtl.blocks.arith import named
from evolute.hw.spec.formats import Activations, FloatFormat


def shared_exponent(exponent: Value, kind: FloatFormat) -> Value:
    """The exponent field of a row, limited to 1 .. the exponent of the greatest finite number."""
    low = exponent[0] | ~exponent.any()
    if kind.infinities:
        low = low & ~exponent.all()
    return Cat(low, exponent[1:])


def align(m: Module, name: str, code: Value, shared: Value, activations: Activations) -> Value:
    """The signed integer of `activations.bits` bits for the floating `code` in a row whose shared
    exponent is `shared`.

    The helper signals are named after `name`.
    """
    kind = activations.format
    assert kind is not None
    mantissa, exponent = code[: kind.mantissa_bits], code[kind.mantissa_bits : -1]
    sign, normal = code[-1], named(m, f"{name}_normal", exponent.any())
    activation_exponent = Cat(exponent[0] | ~normal, exponent[1:])
    distance = named(m, f"{name}_distance", shared - activation_exponent)
    outside = distance[-1] if kind.infinities else distance[-1] | code[:-1].all()

    # Below the integer's bits as many of a fraction as the shared exponent leaves, one at least.
    fraction = max(1, -activations.guard_bits)
    value: Value = Cat(Const(0, max(0, 1 + activations.guard_bits)), mantissa, normal)
    places = (len(value) - 1).bit_length()
    lost: Value = Const(0, 1)
    for place in reversed(range(places)):
        shift, shifted = 1 << place, distance[place]
        lost = lost | (shifted & value[:shift].any())
        value = named(m, f"{name}_shift{shift}", Mux(shifted, value >> shift, value))
    far = distance[places:-1].any()

    kept = (value[fraction:] & ~far.replicate(activations.bits - 1)) | outside.replicate(
        activations.bits - 1
    )
    magnitude = named(m, f"{name}_magnitude", kept)
    below = lost | value[: fraction - 1].any()
    up = value[fraction - 1] & (below | value[fraction]) & ~far
    # A magnitude of ones alone is the greatest one: rounding ends there.
    up = up & ~(magnitude.all() if activations.guard_bits < 0 else outside)
    # One's complement for negative numbers, whose other half of negation takes rounding back.
    signed = Cat(magnitude, Const(0, 1)) ^ sign.replicate(activations.bits)
    return (signed + (sign ^ up))[: activations.bits].as_signed()

"""Packs and unpacks the words whose fields `hw.spec.layout` defines."""

from collections.abc import Iterable

from amaranth.hdl import Cat, Value

from evolute.hw.spec.layout import Beat


def unpack(word: Value, beat: Beat) -> dict[str, list[Value]]:
    """The elements of every field of a packed word, by the field's name; elements are flattened
    with the last index fastest."""
    fields = {}
    for field in beat.fields:
        offset = beat.offsets[field.name]
        elements = [word[offset + i * field.bits :][: field.bits] for i in range(field.count)]
        fields[field.name] = [e.as_signed() for e in elements] if field.signed else elements
    return fields


def pack(beat: Beat, **fields: Iterable[Value]) -> Value:
    """The packed word with these fields. Each element must already have its field's width."""
    return Cat(*(element for field in beat.fields for element in fields[field.name]))

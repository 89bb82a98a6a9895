"""Arrays to stream words and back, by `hw.spec.layout` alone; exact inverses of each other."""

from __future__ import annotations

import numpy as np

from evolute.hw.spec.layout import Beat


def pack(beat: Beat, **fields: np.ndarray) -> np.ndarray:
    """Words of a stream, uint8 [beats, bytes], lowest byte first.

    Each field is an integer array [beats, *field.shape]; signed values become two's complement.
    Raises ValueError when a value does not fit its field.
    """
    columns = []
    for field in beat.fields:
        values = np.asarray(fields[field.name], np.int64).reshape(-1, field.count)
        low, high = (
            (-(1 << field.bits - 1), (1 << field.bits - 1) - 1)
            if field.signed
            else (0, (1 << field.bits) - 1)
        )
        if values.size and not low <= values.min() <= values.max() <= high:
            raise ValueError(f"{field.name}: must be in {low}..{high}")
        bits = values[:, :, None] >> np.arange(field.bits) & 1
        columns.append(bits.astype(np.uint8).reshape(len(values), -1))
    return np.packbits(np.concatenate(columns, axis=1), axis=1, bitorder="little")


def unpack(beat: Beat, words: np.ndarray) -> dict[str, np.ndarray]:
    """The fields of words uint8 [beats, bytes], each int64 [beats, *field.shape]."""
    bits = np.unpackbits(words, axis=1, count=beat.bits, bitorder="little").astype(np.int64)
    fields = {}
    for field in beat.fields:
        start = beat.offsets[field.name]
        part = bits[:, start : start + field.total_bits].reshape(len(words), -1, field.bits)
        weights = np.int64(1) << np.arange(field.bits)
        if field.signed:
            weights[-1:] *= -1
        fields[field.name] = (part @ weights).reshape(len(words), *field.shape)
    return fields

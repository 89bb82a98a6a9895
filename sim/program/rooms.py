"""The room in buffers and banks of sums, given out in order."""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray

_FEW = 24
"""Counts that are closer together are tried one after another: a pass over all things for each
takes less time than a search for each thing."""


def packed(
    words: NDArray[np.signedinteger], room: int, restarts: NDArray[np.int64]
) -> tuple[NDArray[np.int64], NDArray[np.int64]]:
    """Place things one after another in pieces, each of `room` words; a thing takes `words` words.

    A thing that does not fit in the rest of a piece begins the next piece. The things numbered
    `restarts`, of which the first is 0, begin a piece in any case. Returns the number of the first
    thing of every piece, and of every thing the word in its piece where it lies.
    """
    ends = np.cumsum(words, dtype=np.int64)
    starts = ends - words
    smallest, largest = int(words.min()), int(words.max())
    assert largest <= room, "what does not fit must have been refused"
    # How many things a piece would hold that began with each.
    least, most = room // largest, room // smallest
    if most - least <= _FEW:
        held = np.full(len(words), least)
        for more in range(least, min(most, len(words))):
            held[: len(words) - more] += ends[more:] - starts[: len(words) - more] <= room
    else:
        held = np.searchsorted(ends, starts + room, side="right") - np.arange(len(words))
    # Things one after another of which each would begin as long a piece give even pieces.
    changes = np.flatnonzero(np.diff(held)) + 1
    bounds = np.union1d(changes, restarts).tolist()
    restarting, firsts, first = set(restarts.tolist()), [], 0
    for begin, end, length in zip(
        bounds, [*bounds[1:], len(words)], held[bounds].tolist(), strict=True
    ):
        if begin in restarting:
            first = begin
        if first < end:
            firsts += range(first, end, length)
            first = firsts[-1] + length
    pieces = np.array(firsts)
    return pieces, starts - np.repeat(starts[pieces], np.diff(pieces, append=len(words)))


def ring(
    words: NDArray[np.signedinteger], last: NDArray[np.signedinteger], room: int
) -> tuple[NDArray[np.signedinteger], NDArray[np.signedinteger]]:
    """Returns (addresses, before): where each piece of data lies in a buffer of `room` words, and
    the number of the last matmul that needs the data which lay there before, -1 for none.

    Data of `words` words are placed one after another; at the end of the buffer a new round begins
    at its start. `last` is the number of the last matmul that needs each piece of data.
    """
    if not len(words):
        return words, words
    rounds, address = packed(words, room, np.zeros(1, np.int64))
    number = np.repeat(np.arange(len(rounds)), np.diff(rounds, append=len(words)))
    place = number * room + address
    given_up = np.arange(len(words)) - _kept(words, place, room)
    before = np.append(0, given_up[:-1])
    some = np.flatnonzero(given_up > before)
    after = np.full(len(words), -1, np.int32)
    if len(some):
        after[some] = np.maximum.reduceat(last[: given_up[-1]], before[some])
    return address.astype(np.int32), after


def _kept(
    words: NDArray[np.signedinteger], place: NDArray[np.int64], room: int
) -> NDArray[np.int64]:
    """How many earlier data are still there when each is placed: given up are the oldest, those of
    the round before up to its end. `place` counts on from round to round."""
    limit = place + words - room
    count, smallest, largest = len(words), int(words.min()), int(words.max())
    # All but the new data, and at most one at each end of what is given up, is kept.
    least, most = max(0, room // largest - 4), room // smallest
    if most - least > _FEW:
        return np.arange(count) - np.searchsorted(place, limit)
    kept = np.minimum(np.arange(count), least)
    for more in range(least + 1, min(most + 1, count)):
        kept[more:] += place[: count - more] >= limit[more:]
    return kept

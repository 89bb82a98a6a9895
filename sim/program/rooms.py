"""The room in buffers and banks of sums, given out in order."""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray


def packed(
    words: NDArray[np.int64], room: int, restarts: NDArray[np.int64]
) -> tuple[NDArray[np.int64], NDArray[np.int64]]:
    """Things of so many words, one after another in pieces of so much `room`.

    What does not fit in the rest of a piece begins the next one, and so do the things `restarts`,
    which begin with 0. Gives the first thing of every piece, and where each lies in its piece.
    """
    ends = np.cumsum(words)
    starts = ends - words
    # For a piece that began with each thing, the first one that would not fit.
    following = np.searchsorted(ends, starts + room, side="right").tolist()
    firsts = []
    for first, end in zip(restarts.tolist(), [*restarts[1:].tolist(), len(following)], strict=True):
        while first < end:
            firsts.append(first)
            assert following[first] > first, "what does not fit must have been refused"
            first = following[first]
    pieces = np.array(firsts, np.int64)
    return pieces, starts - np.repeat(starts[pieces], np.diff(pieces, append=len(words)))


def ring(
    words: NDArray[np.int64], last: NDArray[np.int64], room: int
) -> tuple[NDArray[np.int64], NDArray[np.int64]]:
    """Addresses of data of so many words in a buffer of so much `room`, which is given out round by
    round; and which matmul is the last that needs what lay there before, -1 for none.

    `last` is the last matmul that needs each.
    """
    if not len(words):
        return words, words
    rounds, address = packed(words, room, np.zeros(1, np.int64))
    number = np.repeat(np.arange(len(rounds)), np.diff(rounds, append=len(words)))
    place = number * room + address
    # How many data, the oldest, are given up for each: those of the round before up to its end.
    given_up = np.searchsorted(place, place + words - room)
    before = np.concatenate([[0], given_up[:-1]])
    some = given_up > before
    after = np.full(len(words), -1)
    if some.any():
        after[some] = np.maximum.reduceat(last[: given_up[-1]], before[some])
    return address, after

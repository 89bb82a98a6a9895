"""Room in buffers and banks against the rule told one thing after another."""

from __future__ import annotations

from collections import deque

import numpy as np
import pytest

from evolute.sim.program.rooms import packed, ring


def drawn(rng: np.random.Generator) -> tuple[np.ndarray, int]:
    """Sizes that differ little or much, or come in stretches of equal ones, and the room."""
    count, largest = int(rng.integers(1, 200)), int(rng.choice([1, 4, 7, 100]))
    smallest = int(rng.integers(1, largest + 1))
    words = rng.integers(smallest, largest + 1, count)
    if rng.integers(2):
        words = np.repeat(words, rng.integers(1, 30, count))[:count]
    return words, largest * int(rng.choice([1, 2, 5, 40])) + int(rng.integers(0, largest + 1))


def packed_one_by_one(
    words: np.ndarray, room: int, restarts: set[int]
) -> tuple[list[int], list[int]]:
    firsts, places, end = [], [], 0
    for index, size in enumerate(words.tolist()):
        if index in restarts or end + size > room:
            firsts.append(index)
            end = 0
        places.append(end)
        end += size
    return firsts, places


def ring_one_by_one(words: np.ndarray, last: np.ndarray, room: int) -> tuple[list[int], list[int]]:
    """Room given out and taken back in the same order."""
    head, given, addresses, afters = 0, deque(), [], []
    for size, needed in zip(words.tolist(), last.tolist(), strict=True):
        after = -1

        def take_back(start: int, end: int) -> int:
            found = -1
            while given and start <= given[0][0] < end:
                found = max(found, given.popleft()[1])
            return found

        if head + size > room:
            after, head = take_back(head, room), 0
        address, head = head, head + size
        after = max(after, take_back(address, head))
        given.append((address, needed))
        addresses.append(address)
        afters.append(after)
    return addresses, afters


@pytest.mark.parametrize("batch", range(4))
def test_rooms_are_given_out_one_after_another(batch: int) -> None:
    for seed in range(100 * batch, 100 * batch + 100):
        rng = np.random.default_rng(seed)
        words, room = drawn(rng)
        some = rng.integers(0, len(words), rng.integers(0, 4))
        restarts = np.union1d([0], some)
        firsts, places = packed(words, room, restarts)
        assert (firsts.tolist(), places.tolist()) == packed_one_by_one(
            words, room, set(restarts.tolist())
        )
        last = np.maximum(np.arange(len(words)), rng.integers(0, len(words), len(words)))
        address, after = ring(words, last, room)
        assert (address.tolist(), after.tolist()) == ring_one_by_one(words, last, room), seed


def test_what_does_not_fit_is_a_fault_of_the_caller() -> None:
    with pytest.raises(AssertionError, match="must have been refused"):
        packed(np.array([1, 9]), 8, np.zeros(1, np.int64))
    address, after = ring(np.empty(0, np.int64), np.empty(0, np.int64), 8)
    assert not len(address) and not len(after)

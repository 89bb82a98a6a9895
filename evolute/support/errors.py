"""Refused requests: the one family of errors that a user sees as a single line."""

from __future__ import annotations

import difflib
from collections.abc import Sequence

_LISTED = 16
"""The most names that a message lists if none is similar."""


class RefusedError(Exception):
    """A request that cannot be met. Its one-line message goes to the user, and the exit code is
    2."""


def near_names(name: str, known: Sequence[str]) -> list[str]:
    """Up to three of the `known` names that begin with `name`, are similar to it or contain it."""
    parts = known if len(name) >= 3 else ()
    begun = [part for part in parts if part.startswith(name)]
    like = difflib.get_close_matches(name, known, n=3, cutoff=0.6)
    longer = [part for part in parts if name in part]
    return list(dict.fromkeys((*begun, *like, *longer)))[:3]


class UnknownNameError(RefusedError):
    """A name that is not in a catalogue.

    The message lists similar names. If there are none, it lists all names, as far as they fit in a
    line; `rule` replaces this list where there are too many.
    """

    def __init__(self, what: str, name: str, known: Sequence[str], rule: str | None = None):
        if rule is not None:
            hint = f"it must be {rule}"
        elif near := near_names(name, known):
            hint = f"did you mean {' or '.join(near)}?"
        elif len(known) > _LISTED:
            hint = f"it may be {', '.join(known[:_LISTED])} or {len(known) - _LISTED} more"
        else:
            hint = f"it must be one of {', '.join(known)}"
        super().__init__(f"unknown {what} {name!r:.60}; {hint}")

"""Requests that are refused: the one family of errors that a user sees as a single line."""

from __future__ import annotations

import difflib
from collections.abc import Sequence

_LISTED = 16
"""So many names are listed where none is near."""


class RefusedError(Exception):
    """A request that cannot be met; its one-line message goes to the user, exit code 2."""


def near_names(name: str, known: Sequence[str]) -> list[str]:
    """Up to three of the known names that `name` may be a slip of, or a part of; often none."""
    parts = known if len(name) >= 3 else ()
    begun = [part for part in parts if part.startswith(name)]
    like = difflib.get_close_matches(name, known, n=3, cutoff=0.6)
    longer = [part for part in parts if name in part]
    return list(dict.fromkeys((*begun, *like, *longer)))[:3]


class UnknownNameError(RefusedError):
    """A name that is not in a catalogue.

    The message lists the near ones. Where there is none it lists all, as far as they fit a line;
    `rule` says instead what names there are where these are too many.
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

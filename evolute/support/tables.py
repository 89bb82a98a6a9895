"""Tables that commands print."""

from __future__ import annotations

from rich.table import Column


def number_columns(*titles: str) -> tuple[Column, ...]:
    """Columns that hold numbers, one for each title."""
    return tuple(Column(title, justify="right") for title in titles)

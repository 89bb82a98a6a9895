"""`evolute report`: pages from result records."""

from __future__ import annotations

from pathlib import Path

import click
from rich.console import Console

from evolute.support.files import RECORDS, write_text
from evolute.support.options import json_option, show

COMMITTED = Path(__file__).parents[1] / "data"
"""Results that belong to this version of the project."""
OUT = Path("out")


@click.command(epilog="Example: evolute report --records out/records.jsonl -o out/report")
@click.option(
    "--records",
    "files",
    type=click.Path(path_type=Path, dir_okay=False),
    multiple=True,
    help="Record file; may be repeated. Default: out/records.jsonl and the committed results.",
)
@click.option(
    "-o",
    "--output",
    type=click.Path(path_type=Path),
    default=OUT / "report",
    show_default=True,
    help="Folder of the page.",
)
@json_option
def report(files: tuple[Path, ...], output: Path, as_json: bool) -> None:
    """Draw recorded results as a page that opens from disk."""
    from evolute.reports.page import build  # draws with matplotlib, which help does without
    from evolute.reports.records import load

    own = OUT / RECORDS
    found = list(files) or [*sorted(COMMITTED.glob("*.jsonl")), *([own] if own.exists() else [])]
    page = output / "index.html"
    write_text(page, build(load(found)))
    show(as_json, {"pages": [str(page)]}, lambda console: _announce(console, page))


def _announce(console: Console, page: Path) -> None:
    console.print(f"wrote {page}", soft_wrap=True)

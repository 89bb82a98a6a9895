"""The command `evolute report`, which makes pages and tables from result records."""

from __future__ import annotations

from collections.abc import Sequence
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
@click.option(
    "--csv",
    "csv_path",
    type=click.Path(path_type=Path, dir_okay=False),
    help="Write the records as a table of comma-separated values, too.",
)
@click.option(
    "--parquet",
    "parquet_path",
    type=click.Path(path_type=Path, dir_okay=False),
    help="Write that table as a Parquet file; needs the extra evolute[parquet].",
)
@click.option("--kind", help="Only records of this kind go into the tables, such as sim or dse.")
@json_option
def report(
    files: tuple[Path, ...],
    output: Path,
    csv_path: Path | None,
    parquet_path: Path | None,
    kind: str | None,
    as_json: bool,
) -> None:
    """Draw recorded results as a page that opens from disk; as tables, where asked for.

    A row of a table is a phase of a `sim` record, a trial of a `dse` record, an engine of a
    `compare` record, or a whole record of another kind.
    """
    from evolute.reports import frames
    from evolute.reports.page import build  # draws with matplotlib, which help does without
    from evolute.reports.records import load

    local_records = OUT / RECORDS
    paths = list(files) or [
        *sorted(COMMITTED.glob("*.jsonl")),
        *([local_records] if local_records.exists() else []),
    ]
    tables = [path for path in (csv_path, parquet_path) if path is not None]
    if kind is not None and not tables:
        raise click.UsageError("--kind needs --csv or --parquet")
    if parquet_path is not None:
        frames.require_parquet()
    if tables:
        table = frames.records(paths, kind)
        if csv_path is not None:
            write_text(csv_path, frames.csv(table))
        if parquet_path is not None:
            frames.write_parquet(parquet_path, table)
    page = output / "index.html"
    write_text(page, build(load(paths)))
    document = {"pages": [str(page)], "tables": [str(path) for path in tables]}
    show(as_json, document, lambda console: _announce(console, [page, *tables]))


def _announce(console: Console, paths: Sequence[Path]) -> None:
    console.print(f"wrote {', '.join(map(str, paths))}", soft_wrap=True)

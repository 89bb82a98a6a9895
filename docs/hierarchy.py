"""Draws docs/hierarchy.svg: from a model down to one step of the engine, with the numbers of a real
plan.

    python docs/hierarchy.py > docs/hierarchy.svg

The numbers are those of `evolute compile evolute-tiny --accel core-decode`: its manifest says what
the stages are, its listing which instructions run them.
"""

from __future__ import annotations

import json
import subprocess
import sys
import tempfile
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from pathlib import Path

import evolute
from evolute.hw.isa import instructions as isa

MODEL, CORE = "evolute-tiny", "core-decode"
WIDTH, MARGIN, BAR_HEIGHT, ROW_HEIGHT = 500, 10, 26, 94
COLOURS = {
    "load": "#ffe3a8",
    "matmul": "#a9ccf7",
    "store": "#bfe6c3",
    "sync": "#e3c7ee",
    "": "#eef1f4",
}


@dataclass(frozen=True)
class Segment:
    """A piece of a bar: what is written on it, how wide it is, and what kind of thing it is."""

    text: str
    width: float = 1
    kind: str = ""


@dataclass(frozen=True)
class Row:
    """One level: its name, a sentence, and a bar, one piece of which is the next level."""

    name: str
    sentence: str
    bar: Sequence[Segment]
    chosen: int | None


def compiled(folder: Path) -> tuple[dict, list[isa.Instruction]]:
    """The manifest's decode program, and its instructions."""
    command = [sys.executable, "-m", "evolute.front", "compile", MODEL, "--accel", CORE]
    subprocess.run([*command, "-o", str(folder)], check=True, capture_output=True)
    manifest = json.loads((folder / "manifest.json").read_text(encoding="utf-8"))
    program = next(each for each in manifest["programs"] if each["name"] == "decode")
    (listing,) = folder.glob("*-decode.asm")
    lines = [line.partition("#")[0].strip() for line in listing.read_text().splitlines()]
    return program, [isa.assemble(line) for line in lines if line]


def rows(program: dict, instructions: Sequence[isa.Instruction]) -> list[Row]:
    """The levels of the first tile of the first stage."""
    engine = evolute.preset(CORE).spec.engine  # pyright: ignore[reportAttributeAccessIssue]
    names = [stage["name"] for stage in program["stages"]]
    blocks = list(dict.fromkeys(name.partition(".")[0] for name in names))
    own = [stage for stage in program["stages"] if stage["name"].startswith(f"{blocks[0]}.")]
    stage = own[0]
    layers = stage["results"]["layers"]
    kinds = [each.operation.name for each in instructions]
    part = kinds[: kinds.index("sync") + 1]
    matmul = part.index("matmul")
    values = dict(
        zip(
            (field.name for field in instructions[matmul].operation.fields),
            instructions[matmul].values,
            strict=True,
        )
    )
    slices, planes = values["slices"], values["planes"]
    steps = engine.beat_steps(values["mode"])
    tile_steps = slices * planes * steps
    tiles = sum(layer["column_tiles"] for layer in layers)
    k, group = stage["input"]["k"], stage["input"]["group"]
    assert part.count("matmul") == tiles and slices * engine.slice_k == k
    assert values["group_slices"] * engine.slice_k == group and steps == 1
    of_block = sum(len(each["results"]["layers"]) for each in own)
    outputs = " + ".join(str(layer["n"]) for layer in layers)
    return [
        Row(
            f"model: {MODEL}",
            f"{len(blocks)} blocks; the output head is left to the host",
            [Segment(f"block {name}") for name in blocks],
            0,
        ),
        Row(
            f"block {blocks[0]}",
            f"{of_block} linear layers in {len(own)} stages; the host works between stages",
            [Segment(each["name"].partition(".")[2]) for each in own],
            0,
        ),
        Row(
            f"stage {stage['name']}",
            f"{len(layers)} layers with the same {k} inputs; {outputs} outputs",
            [
                Segment(
                    f"{layer['name'].partition('.')[2]}: {layer['column_tiles']} tiles", layer["n"]
                )
                for layer in layers
            ],
            0,
        ),
        Row(
            f"program for one token: {len(instructions)} instructions",
            f"the first {len(part)}: "
            + ", ".join(
                f'<tspan class="{kind}">{part.count(kind)} {kind}</tspan>'
                for kind in dict.fromkeys(part)
            ),
            [Segment("", 1, kind) for kind in part],
            matmul,
        ),
        Row(
            "tile: one matmul",
            f"{engine.n} outputs x {k} inputs in {slices} slices; a scale for every {group} inputs",
            [Segment(str(i), 1, "matmul" if i == 0 else "") for i in range(slices)],
            0,
        ),
        Row(
            "slice",
            f"{engine.slice_k} inputs make {engine.kg} tables of {engine.k}; "
            f"{planes}-bit weights come in {planes} beats",
            [Segment(f"bit {i}") for i in range(planes)],
            0,
        ),
        Row(
            "beat",
            f"{engine.n * engine.slice_k} bits: one bit of {engine.slice_k} weights for each of "
            f"{engine.n} outputs",
            [Segment("one step")],
            0,
        ),
        Row(
            "step: one clock cycle",
            f"each of {engine.n} sums adds {engine.kg} table entries that the weights' bits choose",
            [Segment(f"sum {i}" if i in (0, engine.n - 1) else "") for i in range(engine.n)],
            None,
        ),
        Row(
            f"{tiles} tiles x {slices} slices x {planes} beats x {steps} step = "
            f"{tiles * tile_steps} steps for the stage",
            f"all {len(names)} stages: {total_steps(instructions, engine)} steps in "
            f"{program['cycles']:,} cycles, memory included",
            [],
            None,
        ),
    ]


def total_steps(instructions: Iterable[isa.Instruction], engine: evolute.Engine) -> str:
    """The steps of all matrix multiplications of a program."""
    total = 0
    for each in instructions:
        if each.operation.name == "matmul":
            values = dict(
                zip((field.name for field in each.operation.fields), each.values, strict=True)
            )
            beats = values["row_tiles"] * values["slices"] * values["planes"]
            total += beats * engine.beat_steps(values["mode"])
    return f"{total:,}"


def svg(levels: Sequence[Row]) -> str:
    """The picture: a bar for each level, and a wedge from its chosen piece to the next level."""
    height = ROW_HEIGHT * (len(levels) - 1) + 48 + 2 * MARGIN
    inner = WIDTH - 2 * MARGIN
    parts = [
        f'<svg xmlns="http://www.w3.org/2000/svg" viewBox="0 0 {WIDTH} {height}" '
        'font-family="Helvetica, Arial, sans-serif" font-size="14">',
        "<style>rect { stroke: #56606b } text { fill: #1d2329 } .name { font-weight: bold } "
        ".zoom { fill: #dcebff; opacity: 0.5 } .piece { font-size: 12px; text-anchor: middle } "
        ".chosen { stroke: #0b57b0; stroke-width: 2.5 } .load { fill: #8a5a00 } "
        ".matmul { fill: #0b57b0 } .store { fill: #1b7a2b } .sync { fill: #7a2b95 } "
        "tspan { font-weight: bold }</style>",
        f'<rect width="{WIDTH}" height="{height}" fill="#fff" style="stroke:none"/>',
    ]
    for number, row in enumerate(levels):
        top = MARGIN + number * ROW_HEIGHT
        bar = top + 42
        parts.append(f'<text class="name" x="{MARGIN}" y="{top + 14}">{row.name}</text>')
        parts.append(f'<text x="{MARGIN}" y="{top + 33}">{row.sentence}</text>')
        if not row.bar:
            continue
        unit, left = inner / sum(each.width for each in row.bar), float(MARGIN)
        chosen = ""
        for i, each in enumerate(row.bar):
            width = each.width * unit
            is_chosen = i == row.chosen
            fill = COLOURS["matmul" if is_chosen and not each.kind else each.kind]
            piece = (
                f"<rect{' class=' + chr(34) + 'chosen' + chr(34) if is_chosen else ''} "
                f'x="{left:.1f}" y="{bar}" width="{width:.1f}" height="{BAR_HEIGHT}" '
                f'fill="{fill}"/>'
            )
            if is_chosen:
                chosen = piece
                below = bar + BAR_HEIGHT
                parts.append(
                    f'<path class="zoom" d="M{left:.1f} {below} L{left + width:.1f} {below} '
                    f'L{WIDTH - MARGIN} {top + ROW_HEIGHT} L{MARGIN} {top + ROW_HEIGHT} z"/>'
                )
            else:
                parts.append(piece)
            left += width
        parts.append(chosen)  # last, so that its outline is whole
        left = float(MARGIN)
        for each in row.bar:
            width = each.width * unit
            if each.text:
                middle = left + width / 2
                if each.text.startswith("sum "):
                    edge = MARGIN if left < WIDTH / 2 else WIDTH - MARGIN
                    anchor = "start" if left < WIDTH / 2 else "end"
                    parts.append(
                        f'<text font-size="12" style="text-anchor:{anchor}" x="{edge}" '
                        f'y="{bar + BAR_HEIGHT + 16}">{each.text}</text>'
                    )
                else:
                    parts.append(
                        f'<text class="piece" x="{middle:.1f}" y="{bar + 17.5}">{each.text}</text>'
                    )
            left += width
    return "\n".join([*parts, "</svg>"]) + "\n"


def main() -> None:
    with tempfile.TemporaryDirectory() as folder:
        sys.stdout.write(svg(rows(*compiled(Path(folder)))))


if __name__ == "__main__":
    main()

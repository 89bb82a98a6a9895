"""What `evolute sim` does with encoders and networks of convolutions: one pass, and no more."""

from __future__ import annotations

from dataclasses import asdict
from typing import Any

from rich.console import Console
from rich.table import Table

from evolute.hw.spec import CoreSpec
from evolute.sim.cost.metrics import LINEAR, phase_labels, platform_record
from evolute.sim.workload.shape import ModelShape, NetworkShape
from evolute.support import schema
from evolute.support.files import provenance
from evolute.support.labels import Kind, to_record
from evolute.sw.commands.sim_text import operations_table, plain_table
from evolute.sw.deploy.assignment import Accelerator
from evolute.sw.deploy.simulate import Request
from evolute.sw.deploy.single_pass import price_encoder, price_network
from evolute.sw.deploy.unweighted import Format


def pass_record(
    shape: ModelShape | NetworkShape,
    accelerator: str,
    spec: Accelerator,
    weights: Format,
    request: Request,
) -> dict[str, Any]:
    """The record of one pass. Raises `RefusedError` for what they do not allow together."""
    is_encoder, serving = isinstance(shape, ModelShape), request.serving
    priced = (
        price_encoder(shape, weights, spec, request)
        if isinstance(shape, ModelShape)
        else price_network(shape, weights, spec, request)
    )
    kind: Kind = "core" if isinstance(spec, CoreSpec) else "engine"
    labels = phase_labels(priced.phase, kind, is_bound=priced.steps_are_bounds)
    room = priced.room
    return schema.to_record(
        schema.PassRun(
            model=shape.name,
            architecture="encoder" if is_encoder else "convolutions",
            accelerator=accelerator,
            weights=weights.name,
            spec=spec.to_dict(),
            digest=spec.digest,
            platform=platform_record(request.platform, kind),
            memory=None if request.memory is None else asdict(request.memory),
            rows=serving.prefill_tokens if is_encoder else 1,
            batch=serving.batch,
            kv=serving.cache.name if is_encoder else None,
            phase=to_record(priced.phase, kind),
            labels=dict(labels),
            room=asdict(room) | {"total_bytes": room.total_bytes, "fits": room.fits},
            bits_held=priced.workload.bits_held,
            leaves_out=priced.leaves_out,
            provenance=provenance(
                "cycles of compiled programs with the stated memory"
                if kind == "core"
                else "cycles exact, memory modelled",
                ("numpy",),
            ),
        )
    )


def render_pass(console: Console, record: dict[str, Any]) -> None:
    phase, platform, room = record["phase"], record["platform"], record["room"]
    console.print(
        f"{record['model']}, {record['weights']} weights ({record['bits_held']:.3g} bits stored "
        f"per weight) on {record['accelerator']}",
        soft_wrap=True,
    )
    is_encoder = record["architecture"] == "encoder"
    if is_encoder:
        many = f"{record['batch']} sequences of " if record["batch"] > 1 else ""
        asked = f"one pass over {many}{record['rows']:,} tokens, keys and values in {record['kv']}"
    else:
        images = "images" if record["batch"] > 1 else "image"
        asked = f"one pass over {record['batch']} {images}, convolutions as products by im2col"
    console.print(
        f"at {platform['frequency_hz'] / 1e6:.10g} MHz and "
        f"{platform['bandwidth_bytes_per_s'] / 1e9:.10g} GB/s\n{asked}; no weights were read\n",
        soft_wrap=True,
    )
    console.print(_layers(phase), "")
    if phase["operations"]:
        console.print(operations_table(phase), "")
    console.print(_totals(record, "tokens" if is_encoder else "images"), "")
    if is_encoder and phase["scope"] == LINEAR:
        console.print(
            "seconds are of the linear layers only: the rest is the host's, whose speed "
            "--host-gmacs and --host-gbs state",
            soft_wrap=True,
        )
    if record["leaves_out"]:
        console.print(f"not counted: {record['leaves_out']}", soft_wrap=True)
    fits = {None: "", True: ", which fits", False: ", which DOES NOT FIT"}[room["fits"]]
    console.print(
        f"in memory: weights {room['weights_bytes'] / 1e6:,.1f}, embedding "
        f"{room['embedding_bytes'] / 1e6:,.1f} MB{fits}",
        soft_wrap=True,
    )


def _layers(phase: dict[str, Any]) -> Table:
    numbers = "x", "rows", "cycles"
    table = plain_table(("layer", "x", "rows", "N x K", "codes", "cycles", "bound"), numbers)
    for layer in phase["layers"]:
        table.add_row(
            layer["name"],
            str(layer["count"]),
            f"{layer['rows']:,}",
            f"{layer['n']} x {layer['k']}",
            layer["weights"],
            f"{layer['cycles']:,}",
            layer["bound"],
        )
    return table


def _totals(record: dict[str, Any], what: str) -> Table:
    phase, labels = record["phase"], record["labels"]
    table = plain_table(("", "one pass", "number is"), ("one pass",))
    scope = phase["scope"]
    rows = (
        (f"{what}", "tokens", ","),
        (f"cycles, {scope}", "cycles", ","),
        ("memory bytes", "dram_bytes", ","),
        (f"seconds, {scope}", "seconds", ".4g"),
        (f"{what}/s, {scope}", "tokens_per_s", ".4g"),
        ("bound by", "bound", ""),
    )
    for title, name, form in rows:
        table.add_row(title, format(phase[name], form), labels[name])
    return table

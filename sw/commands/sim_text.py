"""How `evolute sim` shows a run in the terminal; the record has the same figures."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from typing import Any

from rich.console import Console
from rich.table import Table

from evolute.sim.cost.metrics import LINEAR
from evolute.sw.commands import reading
from evolute.sw.commands.profile_option import render_profile
from evolute.sw.deploy.simulate import in_both_phases

_COMMON_ROWS = (
    ("memory bytes", "dram_bytes", ",", ""),
    ("seconds", "seconds", ".4g", ""),
    ("tokens/s", "tokens_per_s", ".4g", ""),
    ("share of MACs", "mac_share", ".1%", "the rest: the host"),
)
_ENGINE_ROWS = (
    ("cycles", "cycles", ",", ""),
    ("engine utilization", "utilization", ".1%", ""),
    *_COMMON_ROWS,
    ("bound by", "bound", "", "what takes longest"),
)
_CORE_ROWS = (
    ("cycles", "cycles", ",", "for this memory"),
    ("engine utilization", "engine_utilization", ".1%", "for this memory"),
    ("bus utilization", "bus_utilization", ".1%", "for this memory"),
    *_COMMON_ROWS,
    ("bound by", "bound", "", "or by waiting: latency"),
)
"""What each figure is called, its name in the record, its form, and a word on it;
`evolute.support.labels` says what kind of number it is."""


def render(console: Console, record: dict[str, Any], scope: str) -> None:
    bits = record["bits_total"] or record["bits_held"]
    console.print(
        f"{record['model']}, {record['weights']} weights "
        f"({bits:.3g} bits stored per weight) on {record['accelerator']}"
    )
    console.print(scope, soft_wrap=True)
    console.print(_surroundings(record), "", sep="\n", soft_wrap=True)
    console.print(_layers(record), "")
    if record["decode"]["operations"]:
        console.print(operations_table(record["decode"]), "")
    console.print(_totals(record), "")
    if record["curve"]:
        console.print(_curve(record), "")
    if record["profile"]:
        render_profile(console, record["profile"])
    if record["what_would_help"]:
        console.print(reading.gains_table(record), "")
    for line in _closing(record):
        console.print(line, soft_wrap=True)


def _surroundings(record: dict[str, Any]) -> str:
    """What the model is asked, and what surrounds the accelerator."""
    platform, serving, named = record["platform"], record["serving"], record["memory"]
    memory = platform.get("memory")
    rate = f" ({memory['bytes_per_cycle']} bytes per cycle)" if memory else ""
    behind = f" of {named['name']}" if named else ""
    contexts = serving["contexts"]
    tokens = f"{serving['decode_tokens']} tokens after it"
    if contexts:
        tokens = f"a token with {contexts[0]:,} in the cache"
    sequences = f", {serving['batch']} sequences at once" if serving["batch"] > 1 else ""
    return (
        f"at {platform['frequency_hz'] / 1e6:.10g} MHz and "
        f"{platform['bandwidth_bytes_per_s'] / 1e9:.10g} GB/s{behind}{rate}\n"
        f"a prompt of {serving['prefill_tokens']:,} tokens, {tokens}{sequences}; "
        f"keys and values in {serving['kv']}, {serving['kv_bytes_per_token']:,} bytes a token"
    )


def plain_table(titles: Sequence[str], right: Sequence[str]) -> Table:
    """An empty table whose columns are titled; those in `right` hold numbers."""
    table = Table(box=None, pad_edge=False)
    for title in titles:
        table.add_column(title, justify="right" if title in right else "left")
    return table


def _layers(record: dict[str, Any]) -> Table:
    cycles = "prefill cycles", "decode cycles"
    titles = "layer", "x", "N x K", "codes", cycles[0], "bound", cycles[1], "bound"
    table = plain_table(titles, ("x", *cycles))
    for prefill, decode in in_both_phases(record):
        table.add_row(
            prefill["name"],
            str(prefill["count"]),
            f"{prefill['n']} x {prefill['k']}",
            prefill["weights"],
            f"{prefill['cycles']:,}",
            prefill["bound"],
            "-" if decode is None else f"{decode['cycles']:,}",
            "-" if decode is None else decode["bound"],
        )
    return table


def operations_table(phase: dict[str, Any]) -> Table:
    """What a phase needs beside the linear layers on the accelerator."""
    numbers = "x", "10^6 MACs", "kB", "cycles", "us"
    table = plain_table(("beside them", *numbers, "number is", "bound"), numbers)
    for operation in phase["operations"]:
        if operation["kind"] == "matmul" and operation["label"] != "host":
            continue
        cycles, seconds = operation["cycles"], operation["seconds"]
        table.add_row(
            operation["name"],
            str(operation["count"]),
            f"{operation['macs'] / 1e6:,.2f}" if operation["macs"] else "",
            f"{operation['bytes'] / 1e3:,.1f}" if operation["bytes"] else "",
            "-" if cycles is None else f"{cycles:,}",
            "-" if seconds is None else f"{seconds * 1e6:,.1f}",
            operation["label"],
            operation["limited_by"],
        )
    return table


def _totals(record: dict[str, Any]) -> Table:
    phases = record["prefill"], record["decode"]
    table = plain_table(("", "prefill", "decode", "number is"), ("prefill", "decode"))
    rows = _CORE_ROWS if "bus_utilization" in record["decode"] else _ENGINE_ROWS
    table.add_row("tokens", *(format(phase["tokens"], ",") for phase in phases), "asked for")
    scope = record["decode"]["scope"]
    for title, name, form, note in rows:
        if name in ("cycles", "seconds", "tokens_per_s"):
            title = f"{title}, {scope}"
        label = ": ".join(filter(None, (record["labels"][name], note)))
        table.add_row(title, *(format(phase[name], form) for phase in phases), label)
    return table


def _curve(record: dict[str, Any]) -> Table:
    numbers = "tokens in the cache", "tokens/s", "seconds", "cache bytes"
    table = plain_table((*numbers, "bound"), numbers)
    for point in record["curve"]:
        table.add_row(
            f"{point['context']:,}",
            f"{point['tokens_per_s']:.4g}",
            f"{point['seconds']:.4g}",
            f"{point['cache_bytes']:,}",
            point["bound"],
        )
    return table


def _closing(record: dict[str, Any]) -> Iterator[str]:
    """What there is to say below the tables."""
    if record["decode"]["scope"] == LINEAR:
        yield (
            "tokens/s are of the linear layers only: the rest is the host's, whose speed "
            "--host-gmacs and --host-gbs state"
        )
    if (ways := record["latent_schedules"]) is not None:
        counts = ", ".join(f"{way['schedule']} {way['macs'] / 1e6:,.1f}" for way in ways)
        yield (
            f"latent attention of a token, 10^6 MACs: {counts}; "
            f"{ways[0]['read_bytes'] / 1e3:,.1f} kB of the cache either way"
        )
    room = record["room"]
    names = "weights", "embedding", "cache"
    parts = ", ".join(f"{name} {room[f'{name}_bytes'] / 1e6:,.1f}" for name in names)
    fits = {None: "", True: ", which fits", False: ", which DOES NOT FIT"}[room["fits"]]
    held = f" of {room['memory_bytes'] / 1e6:,.1f} MB" if room["memory_bytes"] else ""
    yield f"in memory: {parts} MB, together {room['total_bytes'] / 1e6:,.1f} MB{held}{fits}"
    if (experts := record["experts"]) is not None:
        yield (
            f"experts in memory: {experts['slots_per_layer']} of each layer; "
            f"{experts['flash_bytes_per_token'] / 1e6:,.1f} MB per token from flash in "
            f"{experts['flash_seconds_per_token']:.4g} s ({experts['label']}: experts chosen "
            f"{experts['routing']})"
        )
    if (idle := record["idle_rows"]) is not None:
        decode, tokens = idle["decode"], record["decode"]["tokens"]
        yield (
            f"{idle['share']:.0%} of rows behind ReLUs idle would spare "
            f"{decode['spared_macs'] / tokens / 1e6:,.1f} x 10^6 MACs and "
            f"{decode['spared_bytes'] / tokens / 1e6:,.2f} MB per token, and leave "
            f"{decode['needed_memory_seconds'] / tokens:.4g} s of moving bytes "
            f"({idle['label']}; {idle['time']})"
        )
    if (energy := record["dram_energy"]) is not None:
        yield (
            f"memory's energy: {energy['prefill_j']:.4g} J for the prompt, "
            f"{energy['decode_j_per_token']:.4g} J per token ({energy['label']}: "
            f"{energy['pj_per_bit']:g} pJ per bit, {energy['source']})"
        )
    elif record["memory"] is not None:
        yield f"memory's energy: no source states it for {record['memory']['name']}"
    if record["extended_context"]:
        yield "more tokens than the model was made for: its accuracy there is unknown"
        if (reach := record["long_factors_reach"]) is not None:
            yield (
                f"its own long factors (LongRoPE) turn positions up to {reach:,} tokens, in the "
                "same time; a --window beyond its first context is measured with them"
            )
        else:
            yield "how positions are turned there is not known: no long factors are stated"
    if (perplexity := record["perplexity"]) is not None:
        shipped = "of the model as shipped nothing is known"
        if perplexity["float"] is not None:
            shipped = f"{perplexity['float']:.4g} as shipped"
        yield (
            f"perplexity {perplexity['quantized']:.4g} on the engine, {shipped} "
            f"(measured: {perplexity['tokens']} tokens of {perplexity['text']})"
        )
        if perplexity["tables_equal"] is not None:
            equal = "equal" if perplexity["tables_equal"] else "DIFFER from"
            yield f"logits of the golden model {equal} those of integer products"
    verified = record["verified"]
    yield (
        f"RTL verified: {verified['mismatches']} mismatches in {verified['transactions']} "
        f"transactions ({verified['simulator']}, seed {verified['seed']})"
        if verified
        else f"RTL not verified here yet: evolute verify {record['accelerator']}"
    )

"""Published figures beside ours, under their authors' assumptions: `docs/claims.md`.

A claim is here if its conditions are stated well enough to compute it anew. Each row says what was
published and by whom, what the models of this project give for the same conditions, and what the
published figure leaves out. `python -m evolute.sim.what_if.claims` prints the page.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from fractions import Fraction

from evolute.sim.what_if.bitmod import Array, cycles
from evolute.sim.what_if.roofline import layers
from evolute.sim.workload.operations import Attend, CacheFormat, Pass, operations
from evolute.sim.workload.shape import ModelShape, NetworkShape
from evolute.sim.workload.zoo import ENTRIES, zoo_entry


@dataclass(frozen=True)
class Claim:
    """A published figure, and the same figure computed here."""

    what: str
    published: str
    ours: str
    """Written with as many digits as the published figure."""
    conditions: str
    source: str
    leaves_out: str

    @property
    def agrees(self) -> bool:
        return self.published == self.ours


def claims() -> list[Claim]:
    """Every claim, computed now."""
    return [*_bitmod(), *_roofline(), *_chipleap(), *_gates(), *_networks(), _parameters()]


def _shape(name: str) -> ModelShape:
    shape = zoo_entry(name).shape
    assert isinstance(shape, ModelShape)
    return shape


_BITMOD = {
    ("half precision", True): (Array(32, 24, 1, Fraction(16), bit_serial=False), "3,156,574,208"),
    ("half precision", False): (Array(64, 12, 1, Fraction(16), bit_serial=False), "413,518,608"),
    ("6 bits", True): (Array(32, 32, 4, 6 + Fraction(1, 16), bit_serial=True), "1,649,680,384"),
    ("6 bits", False): (Array(64, 16, 4, 6 + Fraction(1, 16), bit_serial=True), "156,919,888"),
    ("4 bits", True): (Array(32, 32, 4, 4 + Fraction(1, 16), bit_serial=True), "1,202,921,472"),
    ("3 bits", False): (Array(64, 16, 4, 3 + Fraction(1, 16), bit_serial=True), "79,493,200"),
}


def _bitmod() -> Iterator[Claim]:
    for (weights, is_prompt), (array, published) in _BITMOD.items():
        what = "a prompt of 256 tokens" if is_prompt else "one token after 256"
        yield Claim(
            f"cycles of {what}, Llama-2-7B, {weights}",
            published,
            f"{cycles(array, _shape('llama-2-7b'), 256, is_prompt=is_prompt):,}",
            f"{array.height} x {array.width} elements of {array.lanes} products a step, 256 bits "
            "of memory per cycle, activations of 16 bits",
            "BitMoD (HPCA 2025), totals plotted in its repository",
            "filling and draining, norms, softmax, rotary positions, writes of the cache; scores "
            "count queries as weights and keys once per head",
        )


_A6000_PEAK, _A6000_BYTES = 155e12, 768e9
_ROOFLINE = {
    ("q", True): "69G, 67M, 1024, 155T",
    ("gate", True): "185G, 152M, 1215, 155T",
    ("down", True): "185G, 152M, 1215, 155T",
    ("scores", True): "34G, 302M, 114, 87T",
    ("values", True): "34G, 302M, 114, 87T",
    ("softmax", True): "671M, 537M, 1.25, 960G",
    ("norm", True): "59M, 34M, 1.75, 1T",
    ("add", True): "8M, 34M, 0.25, 192G",
    ("q", False): "34M, 34M, 1, 768G",
    ("gate", False): "90M, 90M, 1, 768G",
    ("scores", False): "17M, 17M, 0.99, 762G",
    ("values", False): "17M, 17M, 0.99, 762G",
}


def _roofline() -> Iterator[Claim]:
    shape = _shape("llama-2-7b")
    for (name, is_prompt), published in _ROOFLINE.items():
        counted = layers(shape, 2048, is_prompt=is_prompt)[name]
        rate = counted.rate(_A6000_PEAK, _A6000_BYTES)
        intensity = f"{counted.intensity:.2f}".rstrip("0").rstrip(".")
        if counted.intensity >= 100:
            intensity = f"{counted.intensity:.0f}"
        yield Claim(
            f"operations, bytes, operations per byte and greatest rate of {name}, Llama-2-7B, "
            + ("a prompt of 2,048 tokens" if is_prompt else "one token after 2,048"),
            published,
            f"{_short(counted.operations)}, {_short(counted.bytes)}, {intensity}, {_short(rate)}",
            "half precision, 155 x 10^12 operations and 768 x 10^9 bytes per second (A6000)",
            "LLM-Viewer (arXiv 2402.16363), table 1",
            "what stays on the chip; a causal mask; other layers of a block are computed alike",
        )


def _short(number: float) -> str:
    """A number in whole units of a thousand, a million and so on."""
    for unit, letter in ((1e12, "T"), (1e9, "G"), (1e6, "M"), (1e3, "K")):
        if number >= unit:
            return f"{number / unit:.0f}{letter}"
    return f"{number:.0f}"


def _chipleap() -> Iterator[Claim]:
    work, cache = Pass(1, 1023), CacheFormat("int8", 8)
    asked = operations(_shape("llama-3.2-1b"), work, cache)
    read = sum(one.read_bytes for one in asked if isinstance(one, Attend))
    conditions = "Llama-3.2-1B, one token, 1,024 tokens with it, a cache of 8 bits without scales"
    source = "ChipLeap, its model of Llama-3.2-1B"
    macs = sum(one.macs for one in asked) / 1e9
    yield Claim("10^9 MACs of a token", "1.303", f"{macs:.3f}", conditions, source, "time")
    yield Claim("MB of the cache", "16.78", f"{read / 1e6:.2f}", conditions, source, "scales")


def _gates() -> Iterator[Claim]:
    """SeerAttention's gates: per layer and head a linear layer from pooled keys, and in the form
    for decoding one from the queries of a group too; weights of 16 bits."""
    keys, width, pooled = 3 * 128, 128, 4 * 128
    prompt = 32 * 32 * keys * width * 2
    decode = 36 * 8 * (keys + pooled) * width * 2
    yield Claim(
        "MB of gates, Llama-3.1-8B",
        "101",
        f"{prompt / 1e6:.0f}",
        "32 layers of 32 heads, three poolings of keys of 128 numbers to 128, 16 bits",
        "SeerAttention (arXiv 2410.13276), model card",
        "reading the summaries of blocks, and choosing",
    )
    yield Claim(
        "MB of gates, Qwen3-8B",
        "66.1",
        f"{decode / 1e6:.1f}",
        "36 layers of 8 key heads, keys as above, queries of 4 heads together to 128, 16 bits",
        "SeerAttention-R (arXiv 2506.08889), model card",
        "reading the summaries of blocks, and choosing",
    )


def _networks() -> Iterator[Claim]:
    for name, published in (("resnet-18", "1.81"), ("vgg-11", "7.61")):
        shape = zoo_entry(name).shape
        assert isinstance(shape, NetworkShape)
        yield Claim(
            f"10^9 MACs of an image, {name}",
            published,
            f"{shape.macs / 1e9:.2f}",
            "224 x 224 pixels, convolutions as matrix products (im2col)",
            "torchvision, documentation of its models",
            "batch normalization, activations, pooling",
        )


def _parameters() -> Claim:
    entries = [zoo_entry(name) for name in ENTRIES]
    totals = [(one.published, one.shape) for one in entries if one.published is not None]
    others = [shape.name for published, shape in totals if not published.is_met_by(shape.params)]
    return Claim(
        "models of the zoo whose published number of parameters is met",
        f"{len(totals)}",
        f"{len(totals) - len(others)}",
        "every digit that was published",
        "named in each entry, see zoo.md",
        f"not met: {', '.join(others)}, whose entries say why",
    )


_MISSING = {
    "LUT-DLA (HPCA 2025), throughput and SRAM of its three designs": "the sizes behind them could "
    "not be checked in its text; lut_dla.md compares its arrangement at sizes of this project",
    "LUT-DLA, loss of accuracy": "it is of its own training of each network",
    "Torch2RISCV on a KV260, 27.0 tokens/s of SmolLM2-135M after a prompt of 32 tokens and 91.2 ms "
    "a step at 2,048": "no source read here states its clock, the formats of weights and cache, or "
    "the share of the bandwidth that it reaches",
    "GQSA, bits per weight": "no source read here states the size of its groups and the form of "
    "its indices beside them; the bits follow from both",
    "SmallThinker, tokens/s in memory and with 1 or 8 GiB": "no source read here states the "
    "bandwidth of memory and disk, or how often experts are found in memory; for rates of your own "
    "there is `evolute sim --expert-slots`",
    "SeerAttention and InfLLM v2, speed-ups over dense attention": "they are of kernels on GPUs, "
    "whose times are measured",
}
"""Published figures that cannot be computed anew, and what is missing for that."""

_HEAD = (
    "# Published figures, computed anew\n\n"
    "Does the model of this project give what others published? Each row takes a published figure "
    "under its authors' own assumptions, computes it anew, and says what the published figure "
    "leaves out. The page is written by `python -m evolute.sim.what_if.claims`, and a test holds "
    "it to that.\n\n"
    "Figures whose conditions are not published are not in the table, but below it: a speed on a "
    "board without its clock, bandwidth or formats cannot be computed anew.\n\n"
    "| figure | published | here | conditions | source | it leaves out |\n"
    "|---|---:|---:|---|---|---|\n"
)


def page() -> str:
    """The page in Markdown."""
    rows = [
        f"| {claim.what} | {claim.published} | {claim.ours}{'' if claim.agrees else ' (DIFFERS)'} "
        f"| {claim.conditions} | {claim.source} | {claim.leaves_out} |\n"
        for claim in claims()
    ]
    missing = (f"- {figure}: {why}.\n" for figure, why in _MISSING.items())
    return _HEAD + "".join(rows) + "\n## Not computed anew\n\n" + "".join(missing)


if __name__ == "__main__":
    print(page(), end="")

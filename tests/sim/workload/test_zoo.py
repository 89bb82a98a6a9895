"""The zoo: its counts against published totals and against sums made by hand, and its reader."""

import collections
import copy
import doctest
import json
import re
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from evolute import front
from evolute.sim.workload import zoo
from evolute.sim.workload.linear import HEAD
from evolute.sim.workload.operations import Attend, CacheFormat, Pass, operations
from evolute.sim.workload.shape import Attention, ModelShape, NetworkShape
from evolute.sim.workload.zoo import ENTRIES, PublishedTotal, ShapeError, read_shape, zoo_entry
from evolute.support.errors import UnknownNameError

FILES = Path(zoo.__file__).parent / "zoo"


@pytest.mark.parametrize("name", ENTRIES)
def test_every_entry_is_verified_or_says_why_not(name):
    entry = zoo_entry(name)
    assert entry.shape.name == name
    assert entry.shape.params > 0
    assert entry.source
    stated = json.loads((FILES / f"{name}.json").read_text())
    if "unverified" in stated:
        assert not entry.verified and entry.doubt == stated["unverified"]
    else:
        assert entry.verified, entry.doubt


def test_a_file_that_counts_something_else_than_published_is_not_verified(tmp_path):
    document = stated("llama-3.2-3b")
    document["published"]["params"] = "3.22 B"
    entry = written(tmp_path, document)
    assert not entry.verified
    assert entry.doubt == "counts 3,212,749,824 parameters, published are 3.22 B"
    del document["published"]
    assert "no total" in str(written(tmp_path, document).doubt)
    del document["source"]
    assert "no source" in str(written(tmp_path, document).doubt)


@pytest.mark.parametrize(
    ("text", "params", "met"),
    [
        ("1.23 B", 1_234_999_999, True),
        ("1.23 B", 1_235_000_000, False),
        ("1.23B", 1_225_000_000, True),
        ("109,482,240", 109_482_240, True),
        ("109,482,240", 109_482_241, False),
        ("15 M", 15_499_999, True),
        ("15.0 M", 15_049_999, True),
        ("15.0 M", 15_050_000, False),
    ],
)
def test_a_total_is_met_with_the_digits_it_was_published_with(text, params, met):
    assert PublishedTotal(params=text, source="a card").is_met_by(params) is met


def llama(hidden, layers, heads, kv, dim, ffn, vocab, *, head=0, biases=0, norms=2, matrices=3):
    """Parameters of a plain decoder: `norms` vectors of a block, `biases` of queries, keys and
    values; `head` is 1 where it is stored apart, `matrices` is 2 without a gate."""
    attention = 2 * hidden * heads * dim + 2 * hidden * kv * dim + biases * (heads + 2 * kv) * dim
    block = attention + matrices * hidden * ffn + norms * hidden
    return vocab * hidden * (1 + head) + layers * block + hidden


def encoder(hidden, layers, rows):
    """Parameters of blocks with a bias everywhere and two LayerNorms each, of tables with so many
    rows, and of one more LayerNorm."""
    attention = 4 * (hidden * hidden + hidden)
    feed_forward = 2 * hidden * 4 * hidden + 4 * hidden + hidden
    return layers * (attention + feed_forward + 4 * hidden) + rows * hidden + 2 * hidden


def matmul_free(hidden, layers, ffn):
    """Three gates and an output, a gated feed-forward half, eight norms as wide as the block and
    one as wide as its half; the lower bounds of gates; two norms at the end."""
    block = 4 * hidden**2 + 3 * hidden * ffn + 8 * hidden + ffn + hidden
    return 2 * 32000 * hidden + layers * block + 2 * hidden


BY_HAND = {
    "smollm2-135m": llama(576, 30, 9, 3, 64, 1536, 49152),
    "llama-2-7b": llama(4096, 32, 32, 32, 128, 11008, 32000, head=1),
    "mistral-nemo-minitron-8b": llama(4096, 40, 32, 8, 128, 11520, 131072, head=1),
    "qwen2.5-0.5b": llama(896, 24, 14, 2, 64, 4864, 151936, biases=1),
    "qwen3-0.6b": llama(1024, 28, 16, 8, 128, 3072, 151936) + 28 * 2 * 128,
    "gemma-2b": llama(2048, 18, 8, 1, 256, 16384, 256000),
    "gemma-2-2b": llama(2304, 26, 8, 4, 256, 9216, 256000, norms=4),
    "gemma-3-270m": llama(640, 18, 4, 1, 256, 2048, 262144, norms=4) + 18 * 2 * 256,
    "phi-3-mini-4k": llama(3072, 32, 32, 32, 96, 8192, 32064, head=1),
    # LayerNorms, and biases of queries, keys, values, output, gate, up and down.
    "phi-3-small": llama(4096, 32, 32, 8, 128, 14336, 100352, norms=4, biases=1)
    + 32 * (4096 + 2 * 14336 + 4096)
    + 4096,
    # Norms within a block: of the hidden vector twice, before `o` and before `down`.
    "bitnet-b1.58-2b-4t": llama(2560, 30, 20, 5, 128, 6912, 128256, norms=3) + 30 * 6912,
    "minicpm4-0.5b": llama(1024, 24, 16, 2, 64, 4096, 73448),
    "minitron-4b": llama(3072, 32, 24, 8, 128, 9216, 256000, head=1, norms=4, matrices=2) + 3072,
    # 32 experts instead of one, and a router.
    "smallthinker-4b": llama(1536, 32, 12, 2, 128, 768 * 32, 151936) + 32 * 32 * 1536,
    "sigma-1.5b": 128256 * 2048
    + 26 * (2048 * 3072 + 3072 * 2048 + 2048 * 256 + 2048 * 1024 + 2048 * 2048)
    + 26 * (3 * 2048 * 6144 + 2 * 2048)
    + 2048,
    # Queries; the latent vector, its norm, and keys and values made of it; output; two matrices.
    "plm-1.8b": 151936 * 2048
    + 32 * (2048 * 16 * 192 + 2048 * 576 + 512 + 512 * 16 * 256 + 2048 * 2048)
    + 32 * (2 * 2048 * 8192 + 2 * 2048)
    + 2048,
    "mamba-130m": 50280 * 768
    + 24 * (768 * 3072 + 1536 * 80 + 48 * 1536 + 1536 + 1536 * 768)
    + 24 * (1536 * 5 + 1536 * 16 + 1536 + 768)
    + 768,
    "matmul-free-370m": matmul_free(1024, 24, 2816),
    "opt-125m": encoder(768, 12, 50272 + 2048),
    "bert-base": encoder(768, 12, 30522 + 512 + 2) + 768 * 768 + 768,
    "distilbert-base": encoder(768, 6, 30522 + 512),
    # Weights of 3 x 3 filters, two numbers of each filter's normalization, and the last layer.
    "resnet-20": 3 * 9 * 16
    + 6 * 16 * 9 * 16
    + 16 * 9 * 32
    + 5 * 32 * 9 * 32
    + 32 * 9 * 64
    + 5 * 64 * 9 * 64
    + 2 * (7 * 16 + 6 * 32 + 6 * 64)
    + 650,
    "vgg-11": sum(9 * i * o + o for i, o in [(3, 64), (64, 128), (128, 256), (256, 256)])
    + sum(9 * i * o + o for i, o in [(256, 512), (512, 512), (512, 512), (512, 512)])
    + sum(i * o + o for i, o in [(25088, 4096), (4096, 4096), (4096, 1000)]),
}


@pytest.mark.parametrize("name", BY_HAND)
def test_parameters_are_those_summed_by_hand(name):
    assert zoo_entry(name).shape.params == BY_HAND[name]


def test_every_family_is_summed_by_hand_once():
    assert {zoo_entry(name).shape.family for name in BY_HAND} == {
        zoo_entry(name).shape.family for name in ENTRIES
    }


@pytest.mark.parametrize(("name", "billions"), [("resnet-18", 1.81), ("vgg-11", 7.61)])
def test_products_of_an_image(name, billions):
    """The documentation of torchvision publishes these totals."""
    shape = zoo_entry(name).shape
    assert isinstance(shape, NetworkShape)
    assert round(shape.macs / 1e9, 2) == billions


CACHE_BYTES = {
    "smollm2-135m": 23_040,
    "qwen2.5-0.5b": 12_288,
    "llama-3.2-1b": 32_768,
    "phi-3-mini-4k": 393_216,
    "bitnet-b1.58-2b-4t": 76_800,
    "minicpm4-8b": 32_768,
    "llama-2-7b": 524_288,
    "sigma-1.5b": 66_560,
    "plm-1.8b": 36_864,
}
"""Bytes of keys and values of one token with 16 bits for each number."""


@pytest.mark.parametrize("name", CACHE_BYTES)
def test_cache_of_a_token(name):
    shape = zoo_entry(name).shape
    assert isinstance(shape, ModelShape)
    mixers = [block.mixer for block in shape.blocks if isinstance(block.mixer, Attention)]
    assert 2 * sum(sum(mixer.token_numbers) for mixer in mixers) == CACHE_BYTES[name]


def test_a_pattern_of_blocks_is_repeated_in_turn():
    shape = zoo_entry("gemma-3-1b").shape
    assert isinstance(shape, ModelShape)
    windows = [block.mixer.window for block in shape.blocks if isinstance(block.mixer, Attention)]
    assert windows == [None if layer % 6 == 5 else 512 for layer in range(26)]


@pytest.mark.parametrize("tokens", [1, 64, 65, 1024, 1025, 1089, 4096, 8191, 8192])
def test_blocks_that_phi_3_small_visits(tokens):
    """Against a mask drawn block by block: a head visits the last 16 blocks, and each block before
    them whose number and the head's, counted from 1, sum to a multiple of 8."""
    shape = zoo_entry("phi-3-small").shape
    assert isinstance(shape, ModelShape)
    sparse, dense = (block.mixer for block in shape.blocks[:2])
    assert isinstance(sparse, Attention) and isinstance(dense, Attention)
    last = (tokens - 1) // 64
    seen = 0
    for group in range(8):
        heads = range(4 * group, 4 * group + 4)
        for block in range(last + 1):
            if last - block < 16 or any((block + head + 1) % 8 == 0 for head in heads):
                seen += min(64, tokens - 64 * block)
    assert dense.strided is None
    for attention, expected in ((sparse, seen / 8), (dense, tokens)):
        step = Attend(HEAD, attention, 1, 1, tokens - 1, CacheFormat("fp16", 16))
        assert step.visible.tokens.tolist() == [expected]
        assert step.read_bytes == expected * 8 * 2 * 128 * 2


@pytest.mark.parametrize("name", ENTRIES)
def test_a_pass_has_every_norm_and_every_matrix(name):
    shape = zoo_entry(name).shape
    if isinstance(shape, NetworkShape):
        return
    passed = operations(shape, Pass(1), CacheFormat("fp16", 16))
    named = collections.Counter(str(operation.name) for operation in passed)
    norms = [f"{at}.{norm}" for at, block in enumerate(shape.blocks) for norm in block.norms]
    matrices = [str(layer) for layer, _ in shape.matrices()]
    assert {role: named[role] for role in (*norms, *matrices)} == dict.fromkeys(
        (*norms, *matrices), 1
    )


def test_windows_and_positions_of_smallthinker():
    shape = zoo_entry("smallthinker-21b").shape
    assert isinstance(shape, ModelShape)
    mixers = [block.mixer for block in shape.blocks if isinstance(block.mixer, Attention)]
    assert [mixer.window for mixer in mixers] == [None, 4096, 4096, 4096] * 13
    assert [mixer.rotary for mixer in mixers] == [False, True, True, True] * 13


def test_a_name_that_is_not_there():
    with pytest.raises(UnknownNameError, match=r"did you mean llama-3\.2-1b or llama-3\.2-3b"):
        zoo_entry("llama-3.2")
    with pytest.raises(UnknownNameError):
        zoo_entry("../zoo/llama-2-7b")


# --- the reader ---


def stated(name: str) -> dict[str, Any]:
    return json.loads((FILES / f"{name}.json").read_text())


def written(folder: Path, document: Any) -> zoo.ZooEntry:
    path = folder / "mine.json"
    path.write_text(document if isinstance(document, str) else json.dumps(document))
    return read_shape(path)


def refusal(folder: Path, document: Any) -> str:
    """The line that refuses a document."""
    with pytest.raises(ShapeError) as error:
        written(folder, document)
    line = str(error.value)
    assert "\n" not in line and len(line) < 500
    assert line.startswith(str(folder / "mine.json"))
    return line


Place = tuple[str | int, ...]
"""Keys and numbers of items that lead to a value of a document."""


def keys(value: Any, at: Place = ()) -> Iterator[Place]:
    """Every key of an object within `value`, by its path."""
    inner = value.items() if isinstance(value, dict) else enumerate(value)
    for key, each in inner:
        if isinstance(value, dict):
            yield (*at, key)
        if isinstance(each, dict | list):
            yield from keys(each, (*at, key))


def holder(document: Any, path: Place) -> Any:
    """A copy of the document, and the object in it that has the last key of the path."""
    changed = copy.deepcopy(document)
    inner = changed
    for key in path[:-1]:
        inner = inner[key]
    return changed, inner


DEFAULTED = (
    "activation active biases bias causal chosen count dense experts final_norm gated has_head "
    "latent learned_positions norm norms other_params published query_rank rotary source strided "
    "unverified window"
).split()
"""Keys that a file may leave out."""
REQUIRED_HERE = [("published", "source"), ("latent", "rotary")]
"""Where a key of such a name may not be left out, nor be null."""
NULLABLE = (
    "chosen feed_forward latent mixer published query_rank source strided unverified window"
).split()
"""Keys whose value may be null."""
TEXTS = ["family", "source", "unverified", "name"]
"""Keys whose value may be any text."""
TOLD_OTHERWISE = {
    "convolutions": "layers: is missing",
    "experts": "active: must be in 1..1",
}
"""Keys without which a file is something else, and what is then said of it."""
READ_WHOLE = [
    "gemma-2-2b",
    "phi-3-small",
    "minicpm4-8b",
    "plm-1.8b",
    "sigma-1.5b",
    "smallthinker-4b",
    "mamba-130m",
    "matmul-free-370m",
    "bert-base",
    "resnet-20",
]
"""Entries that have every key between them."""


@pytest.mark.parametrize("name", READ_WHOLE)
def test_no_key_is_missing_misspelled_or_of_another_type_without_a_line(tmp_path, name):
    document = stated(name)
    for path in keys(document):
        key, optional = str(path[-1]), path[-2:] not in REQUIRED_HERE
        changed, inner = holder(document, path)
        value = inner.pop(key)
        if key in TOLD_OTHERWISE:
            assert TOLD_OTHERWISE[key] in refusal(tmp_path, changed)
        elif key in DEFAULTED and optional:
            written(tmp_path, changed)
        else:
            assert f"{key}: is missing" in refusal(tmp_path, changed)
        inner[f"{key}x"] = value
        line = refusal(tmp_path, changed)
        # Of what kind an object is must be known before its keys are.
        assert ("kind: is missing" if key == "kind" else f"{key}x: is no key here") in line
        del inner[f"{key}x"]
        for wrong in (1.5, {"a": 1}, [1.5], "x y", -1, None):
            if wrong is None and key in NULLABLE and optional:
                continue
            if isinstance(wrong, str) and key in TEXTS:
                continue
            inner[key] = wrong
            assert re.search(rf"\b{key}\b", refusal(tmp_path, changed)), (path, wrong)


@pytest.mark.parametrize(
    ("change", "line"),
    [
        ({"layers": 0}, "layers: must be in 1..4096, got 0"),
        ({"layers": 10**9}, "layers: must be in 1..4096, got 1000000000"),
        ({"pattern": []}, "pattern: must be of 1..30 blocks, got 0"),
        ({"hidden": 0}, "hidden: must be in 1..2^24, got 0"),
        ({"tied": 1}, "tied: must be true or false, got 1"),
        ({"vocab": True}, "vocab: must be a whole number, got true"),
        ({"vocab": 1 << 41}, "vocab: must be in 0..1099511627776, got 2199023255552"),
        ({"norm": "batch"}, 'norm: must be one of rms, layer, got "batch"'),
        ({"name": "x"}, "name: is no key here"),
        ({"blocks": []}, "blocks: is no key here"),
        ({"published": {"params": "many", "source": "x"}}, "published.params: must be a number"),
    ],
)
def test_a_wrong_value_is_named_with_its_rule(tmp_path, change, line):
    assert line in refusal(tmp_path, stated("smollm2-135m") | change)


@pytest.mark.parametrize(
    ("half", "change", "line"),
    [
        ("mixer", {"kind": "memory"}, "pattern[0].mixer.kind: must be one of attention, scan"),
        ("mixer", {"key_heads": 2}, "pattern[0].mixer.key_heads: must be a divisor of 9 heads"),
        ("mixer", {"biases": ["up"]}, "pattern[0].mixer.biases: must be one of q, k, v, o"),
        ("mixer", {"window": 0}, "pattern[0].mixer.window: must be at least 1, got 0"),
        ("feed_forward", {"width": 0}, "pattern[0].feed_forward.width: must be at least 1"),
        ("feed_forward", {"active": 2}, "pattern[0].feed_forward.active: must be in 1..1, got 2"),
        ("feed_forward", {"activation": "swish"}, "activation: must be one of silu, gelu"),
    ],
)
def test_a_wrong_value_within_a_block_is_named_with_its_place(tmp_path, half, change, line):
    document = stated("smollm2-135m")
    document["pattern"][0][half] |= change
    assert line in refusal(tmp_path, document)


def test_a_norm_with_a_name_that_none_has(tmp_path):
    document = stated("smollm2-135m")
    document["pattern"][0]["norms"] = ["attention_norm", "fnn_norm"]
    assert "pattern[0].norms: must be one of attention_norm" in refusal(tmp_path, document)


@pytest.mark.parametrize(
    ("text", "rule"),
    [
        ("{", "must be a JSON document"),
        ("[" * 100_000, "must be a JSON document"),
        ("[]", "must be a JSON object"),
        ('{"hidden": 1, "hidden": 2}', "hidden: must not come twice"),
        ('{"hidden": NaN}', "must be a JSON document"),
        ("\x00", "must be a JSON document"),
        (" " * (1 << 20) + "{}", "must be at most 1048576 bytes"),
    ],
)
def test_what_is_no_document(tmp_path, text, rule):
    assert rule in refusal(tmp_path, text)


def test_a_file_that_is_not_there(tmp_path):
    with pytest.raises(ShapeError, match="cannot be read: No such file"):
        read_shape(tmp_path / "none.json")
    with pytest.raises(ShapeError, match="cannot be read: Is a directory"):
        read_shape(tmp_path)


PAGE = Path(front.__file__).parents[1] / "docs" / "zoo.md"


def test_the_documentation_shows_what_entries_say():
    (example,) = re.findall(r"```python\n(.*?)```", PAGE.read_text(encoding="utf-8"), re.S)
    test = doctest.DocTestParser().get_doctest(example, {}, PAGE.name, str(PAGE), 0)
    said: list[str] = []
    outcome = doctest.DocTestRunner(verbose=False).run(test, out=said.append)
    assert outcome.attempted == 4 and outcome.failed == 0, "".join(said)


def test_the_example_of_the_documentation_reads(tmp_path):
    page = PAGE.read_text(encoding="utf-8")
    (example,) = re.findall(r"```json\n(.*?)```", page, re.S)
    entry = written(tmp_path, example)
    assert f"The model has {entry.shape.params:,} parameters." in page
    shape = entry.shape
    assert isinstance(shape, ModelShape)
    halves = [block.feed_forward for block in shape.blocks if block.feed_forward is not None]
    assert [half.experts for half in halves] == [1, 16] * 6


def test_a_convolutional_network(tmp_path):
    document = {
        "family": "small",
        "convolutions": [
            {"name": "first", "inputs": 3, "outputs": 16, "side": 3, "positions": 1024},
            {"name": "next", "inputs": 16, "outputs": 16, "side": 3, "positions": 64, "count": 2},
            {
                "name": "last",
                "inputs": 16,
                "outputs": 10,
                "side": 1,
                "positions": 1,
                "bias": True,
            },
        ],
        "other_params": 32,
    }
    shape = written(tmp_path, document).shape
    assert isinstance(shape, NetworkShape)
    assert shape.params == 3 * 9 * 16 + 2 * 16 * 9 * 16 + 16 * 10 + 10 + 32
    assert shape.macs == 1024 * 27 * 16 + 2 * 64 * 144 * 16 + 160
    assert [layer.matrix.k for layer in shape.convolutions] == [27, 144, 16]
    document["convolutions"][0]["side"] = 0
    assert "convolutions[0].side: must be at least 1, got 0" in refusal(tmp_path, document)
    assert "hidden: is no key here" in refusal(tmp_path, document | {"hidden": 1})
    assert "convolutions: must be at least one" in refusal(
        tmp_path, {**document, "convolutions": []}
    )

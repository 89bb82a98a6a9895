"""The linear layers of a model without weights, in formats that are chosen by name.

The layers are equal to those of a checkpoint that is quantized in the same way; a test compares
them for each form of weights.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass, replace

import numpy as np

from evolute.hw.spec import Engine
from evolute.hw.spec.formats import Kind, WeightCodes
from evolute.sim.golden import lut_dla
from evolute.sim.weights import Centroids, group_bounds
from evolute.sim.workload.linear import HEAD, HostLayer, LayerName, Linear, Workload
from evolute.sim.workload.operations import CacheFormat, Pass, Product, operations
from evolute.sim.workload.shape import ModelShape, NetworkShape
from evolute.sim.workload.sparsity import Sparsity, TileGroup, evenly_pruned
from evolute.sw.deploy.assignment import (
    Accelerator,
    engine_in,
    recoding_for,
    require_sparsity,
    rounded_linear,
    stored_on,
)
from evolute.sw.quantizers.lut_dla import Tables, parse_tables
from evolute.sw.quantizers.methods import parse_method
from evolute.sw.quantizers.rounding import Rounding
from evolute.sw.quantizers.vptq.choice import Vptq
from evolute.sw.tensors.tensor import SCALE_BITS, QuantError
from evolute.sw.tensors.weights import GRAMMAR, parse_weights

DEFAULT_WEIGHTS = "w4g32"
"""What a model without weights is priced in where nothing is chosen."""

HOST = "host"
"""In place of a format: the output head is left to the host."""

CODEBOOK_BITS = 8
"""Bits of a weight that is the sum of its codewords' components, as quantizers make them."""

SHARED_INPUTS = (
    ("q_down", "kv_down"),
    ("q", "k", "v"),
    ("gate", "up", "router"),
    ("i", "f", "g"),
)
"""Roles of the layers of a block that share an input."""


@dataclass(frozen=True)
class Format:
    """What a linear layer's weights are held in: rounded, as indices into codebooks, or as tables
    by centroid."""

    name: str
    choice: Rounding | Vptq | Tables

    def factors(self, engine: Engine) -> tuple[int, ...]:
        """Sizes whose multiples a layer has without padding: a scale group or a codeword, or of one
        grid for a whole row a slice of the engine; and a column tile."""
        if isinstance(self.choice, Vptq):
            return self.choice.v, engine.n
        return self.choice.group or engine.slice_k, engine.n


def parse_format(option: str, text: str) -> Format:
    """The format that `text` names; `option` is the option in messages. Raises `QuantError`."""
    if text.startswith("vptq-"):
        (choice,) = parse_method(text).candidates
        if isinstance(choice, Vptq) and not choice.outliers and choice.groups == 1:
            return Format(text, choice)
        rule = "without outlier columns and in one group where there are no weights"
        raise QuantError(f"{option}: must be {rule}, got {text!r}")
    if (tables := parse_tables(text)) is not None:
        return Format(text, tables)
    rounding = parse_weights(text).rounding
    if rounding is None:
        examples = f"{GRAMMAR.removeprefix('native, float, ')}, or vptq-v8k256r256, or dla-v2c16"
        raise QuantError(f"{option}: a model without weights takes {examples}; got {text!r}")
    return Format(text, rounding)


def head_format(text: str | None, spec: Accelerator) -> Format | None:
    """The format of the output head; None if the host computes it.

    Without `text`, it is the widest integer grid that the engine runs, or the host if it runs none.
    """
    if text == HOST:
        return None
    if text is not None:
        return parse_format("head", text)
    choice = recoding_for(engine_in(spec))
    return None if choice is None else parse_format("head", choice.name)


def shape_workload(
    shape: ModelShape,
    weights: Format,
    head: Format | None,
    spec: Accelerator,
    work: Pass,
    sparsity: Sparsity | None = None,
) -> Workload:
    """The linear layers of a pass, as `spec` holds them; with skip lists if `sparsity` says so.

    Raises `SpecError` where the engine does not run a format, and `QuantError` where `spec` cannot
    leave the zeros of `sparsity` out that it should.
    """
    if sparsity is not None:
        require_sparsity(sparsity, spec)
    linears: list[Linear] = []
    left: list[HostLayer] = []
    for product in operations(shape, work, CacheFormat("none", 0)):
        if not isinstance(product, Product):
            continue
        is_head = product.name == HEAD
        chosen = head if is_head else weights
        if chosen is None:
            left.append(HostLayer(product.name, product.n, product.k, last_token_only=is_head))
            continue
        for linear in _linears(product, chosen, spec, is_head=is_head):
            if sparsity is not None and not is_head:
                linear = _with_zeros(sparsity, linear, engine_in(spec).n)
            if product.origin != "expert" and not is_head and product.rows != work.tokens:
                linear = replace(linear, own_rows=product.rows)  # a block that sees fewer tokens
            linears.append(linear)
    return Workload(shape.name, weights.name, tuple(linears), tuple(left), SHARED_INPUTS)


def network_workload(
    shape: NetworkShape, weights: Format, spec: Accelerator, images: int
) -> Workload:
    """The convolutions of `images` images as matrix products, as `spec` holds their weights; each
    has a row for every position of an image. Raises `SpecError` where the engine does not run the
    format."""
    layers = [one for layer in shape.convolutions for one in [layer] * layer.count]
    linears = []
    for number, layer in enumerate(layers):
        name = LayerName(number, layer.name)
        linear = _linear(name, layer.matrix.n, layer.matrix.k, weights.choice, spec)
        linears.append(stored_on(replace(linear, own_rows=layer.positions * images), spec))
    return Workload(shape.name, weights.name, tuple(linears))


def _with_zeros(pattern: Sparsity, linear: Linear, outputs: int) -> Linear:
    """The layer with the skip list that a pattern gives it, if any. Raises `QuantError` for
    codewords, which have no zeros."""
    if linear.vector_bits is not None:
        raise QuantError(
            f"prune: {pattern.name} must be of weights with a code each, {linear.name} is in "
            "codewords"
        )
    return evenly_pruned(pattern, linear, outputs) if isinstance(pattern, TileGroup) else linear


def _linears(
    product: Product, chosen: Format, spec: Accelerator, *, is_head: bool
) -> Iterator[Linear]:
    """The layer of a product, or one for every expert that is visited, which are numbered as
    parts."""
    linear = _linear(product.name, product.n, product.k, chosen.choice, spec)
    if is_head:
        linear = replace(linear, last_token_only=True)
    if product.origin != "expert":
        yield stored_on(linear, spec)
        return
    # Rows go to experts as evenly as they can.
    for expert in range(product.copies):
        rows = len(range(expert, product.rows, product.copies))
        name = replace(product.name, part=expert)
        yield stored_on(replace(linear, name=name, own_rows=rows), spec)


def _linear(
    name: LayerName, n: int, k: int, choice: Rounding | Vptq | Tables, spec: Accelerator
) -> Linear:
    engine = engine_in(spec)
    if isinstance(choice, Rounding):
        return rounded_linear(name, n, k, choice, engine)
    if isinstance(choice, Tables):
        return _of_tables(name, n, k, choice, engine)
    bits = WeightCodes(CODEBOOK_BITS, engine.codeword_kind(choice.v))
    engine.coding_of(bits)
    books = [choice.entries, *([choice.residual_entries] if choice.residual_entries else [])]
    codewords = n * -(-k // choice.v) if choice.along == "inputs" else -(-n // choice.v) * k
    index_bits = sum((entries - 1).bit_length() for entries in books)
    component_bits = CODEBOOK_BITS - (len(books) - 1)
    held = codewords * index_bits + sum(books) * choice.v * component_bits
    return Linear(name, n, k, bits, group=k, group_bits=0, vector_bits=held)


def _of_tables(name: LayerName, n: int, k: int, choice: Tables, engine: Engine) -> Linear:
    """A layer as tables by centroid. Raises `SpecError` for tables that the engine does not run."""
    codes, group = WeightCodes(choice.bits, Kind.TABLE), min(choice.group, k)
    engine.coding_of(codes)
    spaces = sum(-(-(end - start) // choice.v) for start, end in group_bounds(k, group))
    points = np.zeros((spaces, choice.centroids, choice.v), np.int8)
    centroids = Centroids(k, choice.activations, choice.metric, points)
    lut_dla.require_room(engine, centroids)
    held = n * spaces * choice.centroids * choice.bits + centroids.stored_bits
    return Linear(name, n, k, codes, group, SCALE_BITS, vector_bits=held)

"""A language model on an accelerator: how fast it is, and how close its text is to that of the
model as shipped."""

from __future__ import annotations

import functools
from collections.abc import Callable, Sequence
from dataclasses import asdict, dataclass, replace
from typing import Any

import numpy as np

from evolute.hw.spec import CoreSpec
from evolute.hw.spec.memories import Memory
from evolute.hw.spec.platform import Platform
from evolute.sim.cost.evaluate import Pricing
from evolute.sim.cost.flash import ROUTING, ExpertCache
from evolute.sim.cost.metrics import Metrics
from evolute.sim.cost.token import Host
from evolute.sim.program.build import LayerSteps
from evolute.sim.workload.linear import LayerName, Workload
from evolute.sim.workload.operations import (
    VECTOR_BYTES,
    Pass,
    cache_bytes,
    latent_schedules,
)
from evolute.sim.workload.serving import Serving
from evolute.sim.workload.shape import Attention, ModelShape
from evolute.sim.workload.skipping import require_relu, spared
from evolute.sim.workload.sparsity import Sparsity, SparsityFigures, TileGroup, sparsity_figures
from evolute.support.errors import RefusedError
from evolute.sw.deploy.assignment import Accelerator, Assignment, engine_in
from evolute.sw.deploy.on_core import core_backends, core_model
from evolute.sw.deploy.on_engine import Backend, engine_linears, engine_steps, fast_backend
from evolute.sw.deploy.unweighted import Format, shape_workload
from evolute.sw.language_model.decoder import Cache, forward, head
from evolute.sw.language_model.kv import KvFormat
from evolute.sw.language_model.linear import Linears, host_linears
from evolute.sw.language_model.model import LanguageModel
from evolute.sw.language_model.perplexity import MeasuredAccuracy, Text, measure, windows
from evolute.sw.language_model.shape import model_shape
from evolute.sw.tensors.bits import BitsPerWeight, model_bits
from evolute.sw.tensors.tensor import QuantError

CHECK_TOKENS = 4
"""Tokens whose logits are computed by the golden model and as plain integer products."""


ALL_EXPERTS = Pass(1 << 12)
"""So many tokens that they visit every expert of a layer."""


@dataclass(frozen=True)
class Request:
    """What a model is asked to do, and on which platform."""

    serving: Serving
    platform: Platform
    memory: Memory | None = None
    """The memory behind the platform's bandwidth, if it has a name."""
    host: Host | None = None
    """How fast the host is, where that is known."""
    experts: ExpertCache | None = None
    """How many experts of a layer are in memory, where flash holds the others."""
    idle_rows: float | None = None
    """Which share of the rows behind ReLUs is idle for a token, where that is to be counted."""

    def pricing(
        self,
        spec: Accelerator,
        shape: ModelShape,
        workload_of: Callable[[Pass], Workload],
        layer_steps: LayerSteps | None = None,
    ) -> Pricing:
        """What passes of a model on `spec` are priced with. Raises `SpecError` for experts or ReLUs
        that the model does not have."""
        if self.experts is not None:
            self.experts.require_room(shape)
        if self.idle_rows is not None:
            require_relu(shape, self.idle_rows)
        cache, host = self.serving.cache, self.host
        experts = self.experts
        return Pricing(spec, shape, workload_of, self.platform, cache, host, layer_steps, experts)


@dataclass(frozen=True)
class Room:
    """What must be in memory: weights as the accelerator and the host hold them, without experts
    that are in flash, embeddings, and the cache of all sequences at their longest."""

    weights_bytes: int
    embedding_bytes: int
    cache_bytes: int
    memory_bytes: int | None
    """Capacity of the named memory; None if no memory is named, or one of any size."""

    @property
    def total_bytes(self) -> int:
        return self.weights_bytes + self.embedding_bytes + self.cache_bytes

    @property
    def free_bytes(self) -> int | None:
        """Bytes that are left for caches; None if the capacity is not known."""
        if self.memory_bytes is None:
            return None
        return self.memory_bytes - self.weights_bytes - self.embedding_bytes

    @property
    def fits(self) -> bool | None:
        """Whether everything fits; None if the capacity is not known."""
        return None if self.memory_bytes is None else self.total_bytes <= self.memory_bytes


@dataclass(frozen=True)
class AccuracyTrial:
    """What to measure for accuracy: `tokens` tokens of `text`, in windows of `window` tokens."""

    text: Text
    tokens: int
    window: int
    kv: KvFormat
    original: LanguageModel | None
    """The model as shipped, for comparison."""


@dataclass(frozen=True)
class Measured:
    """A model's accuracy on an accelerator.

    `tables_equal` says whether the golden model gave the same logits, bit for bit, as the plain
    integer products with which accuracy was measured; None if accuracy was measured with the golden
    model itself.
    """

    accuracy: MeasuredAccuracy
    backend: Backend
    tables_equal: bool | None

    def to_dict(self) -> dict[str, Any]:
        accuracy = asdict(self.accuracy)
        renamed = {"float": "reference_perplexity", "quantized": "perplexity"}
        unchanged = ("text", "tokens", "context", "stride", "kv", "kl", "top1")
        return {
            **{name: accuracy[source] for name, source in renamed.items()},
            **{name: accuracy[name] for name in unchanged},
            "backend": self.backend,
            "tables_equal": self.tables_equal,
        }


@dataclass(frozen=True)
class Simulation:
    """The result of `evolute sim`. What needs weights is None for a model without weights."""

    pricing: Pricing
    workload: Workload
    """The linear layers of one token."""
    metrics: Metrics
    request: Request
    room: Room
    recoding: dict[str, Any] | None
    bits: BitsPerWeight | None
    measured: Measured | None
    sparsity: SparsityFigures | None = None
    """Of weights that were made zero."""

    @property
    def shape(self) -> ModelShape:
        return self.pricing.shape

    def to_dict(self) -> dict[str, Any]:
        metrics, work = self.metrics.to_dict(), self.workload
        phases = paired_layers(metrics["prefill"]["layers"], metrics["decode"]["layers"])
        serving, memory = self.request.serving, self.request.memory
        measured = {"perplexity": "measured"} if self.measured else {}
        return {
            "model": work.model,
            "weights": work.weights,
            **metrics,
            "layers": [
                {
                    **{name: one[name] for name in ("name", "count", "n", "k", "weights")},
                    "prefill_cycles": prefill["cycles"] if prefill else None,
                    "decode_cycles": decode["cycles"] if decode else None,
                }
                for prefill, decode in phases
                if (one := prefill or decode)
            ],
            "labels": self.metrics.labels | measured,
            "serving": {
                "prefill_tokens": serving.prefill_tokens,
                "decode_tokens": len(serving.decode),
                "contexts": list(serving.contexts),
                "batch": serving.batch,
                "kv": serving.cache.name,
                "kv_bytes_per_token": cache_bytes(self.shape, 1, serving.cache),
            },
            "memory": None if memory is None else asdict(memory),
            "dram_energy": self._dram_energy(),
            "experts": self._experts(),
            "idle_rows": self._idle_rows(),
            "room": {
                **asdict(self.room),
                "total_bytes": self.room.total_bytes,
                "fits": self.room.fits,
            },
            "host_layers": list(work.host),
            "host_macs_per_token": work.host_macs(),
            "host_bytes_per_token": work.host_bytes,
            "recoded": self.recoding,
            "latent_schedules": self._latent_schedules(),
            "bits_index": self.bits and self.bits.bits_index,
            "bits_total": self.bits and self.bits.bits_total,
            "bits_held": work.bits_held,
            "perplexity": self.measured and self.measured.to_dict(),
        }

    def _experts(self) -> dict[str, Any] | None:
        """What decoding reads of experts from flash; None where all are in memory."""
        if (experts := self.request.experts) is None:
            return None
        decode, serving = self.metrics.decode, self.request.serving
        moved = experts.flash_bytes(self.shape, self.workload, serving.decode[0]) / serving.batch
        return {
            "label": "modelled",
            "routing": ROUTING,
            "slots_per_layer": experts.slots,
            "flash_bytes_per_s": experts.flash_bytes_per_s,
            "flash_bytes_per_token": moved,
            "flash_seconds_per_token": moved / experts.flash_bytes_per_s,
            "seconds_per_token": decode.seconds / decode.tokens,
            "scope": decode.scope,
        }

    def _idle_rows(self) -> dict[str, Any] | None:
        """What a machine that skips idle rows behind ReLUs would be spared, by phase and of the
        linear layers on the accelerator; None where nothing is said of them."""
        if (share := self.request.idle_rows) is None:
            return None
        serving, phases = self.request.serving, {}
        for name, work, passes, metrics in (
            ("prefill", serving.prefill, 1, self.metrics.prefill),
            ("decode", serving.decode[0], len(serving.decode), self.metrics.decode),
        ):
            one = spared(self.shape, self.pricing.workload_of(work), work, share)
            rate = self.request.platform.bandwidth_bytes_per_s
            phases[name] = {
                "spared_macs": passes * one.macs,
                "spared_bytes": passes * one.bytes,
                "needed_bytes": metrics.dram_bytes - passes * one.bytes,
                "needed_memory_seconds": (metrics.dram_bytes - passes * one.bytes) / rate,
            }
        return {
            "label": "modelled",
            "share": share,
            "time": "not shortened: the accelerator computes all rows",
            **phases,
        }

    def _dram_energy(self) -> dict[str, Any] | None:
        """What moving the phases' bytes takes of the named memory, in joules; None where no source
        states its energy per bit."""
        memory = self.request.memory
        if memory is None or memory.energy_pj_per_bit is None:
            return None
        joules_per_byte = 8e-12 * memory.energy_pj_per_bit
        phases = {"prefill": self.metrics.prefill, "decode": self.metrics.decode}
        return {
            "label": "modelled",
            "scope": self.metrics.decode.scope,
            "source": memory.energy_source,
            "pj_per_bit": memory.energy_pj_per_bit,
            **{f"{name}_j": phase.dram_bytes * joules_per_byte for name, phase in phases.items()},
            "decode_j_per_token": phases["decode"].dram_bytes
            * joules_per_byte
            / phases["decode"].tokens,
        }

    def _latent_schedules(self) -> list[dict[str, Any]] | None:
        """The cost of one token's attention in all layers, for each schedule of a latent cache;
        None for a model that stores keys and values themselves."""
        serving = self.request.serving
        layers = [block.mixer for block in self.shape.blocks]
        latent = [mixer for mixer in layers if isinstance(mixer, Attention) and mixer.latent]
        if not latent:
            return None
        name, work = LayerName(None, "attention"), serving.decode[0]
        schedules = [latent_schedules(name, mixer, work, serving.cache) for mixer in latent]
        return [
            {
                "schedule": ways[0].schedule,
                "macs": sum(way.macs for way in ways),
                "read_bytes": sum(way.read_bytes for way in ways),
            }
            for ways in zip(*schedules, strict=True)
        ]


LayerRecord = dict[str, Any]
"""A layer of a phase as records have it."""


def paired_layers(
    prefill: Sequence[LayerRecord], decode: Sequence[LayerRecord]
) -> list[tuple[LayerRecord | None, LayerRecord | None]]:
    """The layers of two phases side by side, None where a phase has none, such as an expert that no
    token of it goes to. Layers that differ in nothing but which weights, or how many tokens, they
    leave out are together, with the mean of their cycles and what limits most of them."""
    phases = _alike(prefill), _alike(decode)
    keys = dict.fromkeys((*phases[0], *phases[1]))
    return [(phases[0].get(key), phases[1].get(key)) for key in keys]


def _alike(layers: Sequence[LayerRecord]) -> dict[tuple[Any, ...], LayerRecord]:
    together: dict[tuple[Any, ...], list[LayerRecord]] = {}
    for layer in layers:
        key = tuple(layer[name] for name in ("name", "n", "k", "weights", "group"))
        together.setdefault(key, []).append(layer)
    merged = {}
    for key, some in together.items():
        count = sum(layer["count"] for layer in some)
        cycles = sum(layer["count"] * layer["cycles"] for layer in some)
        bounds = [layer["bound"] for layer in some for _ in range(layer["count"])]
        bound = max(dict.fromkeys(bounds), key=bounds.count)
        merged[key] = some[0] | {"count": count, "cycles": round(cycles / count), "bound": bound}
    return merged


def simulate(
    assignment: Assignment,
    request: Request,
    trial: AccuracyTrial | None,
    progress: Callable[[float], None] = lambda done: None,
    *,
    steps: LayerSteps | None = None,
) -> Simulation:
    """Price a model as it is assigned, and measure how the accelerator's arithmetic changes its
    predictions.

    Perplexity runs through plain integer products, which exact tables equal; rounded tables are run
    themselves. `progress` is called with the part of the measurement done, 0..1. Without a `trial`
    nothing is measured but steps that depend on weights, unless `steps` are given. Raises
    `RefusedError` for what the model, the weights and the accelerator do not allow together.
    """
    model, spec = assignment.model, assignment.spec
    work, weights = assignment.workload, assignment.weights
    if not work.linears:
        raise QuantError(f"weights: {weights.name} leaves no layer on the engine to simulate")
    backends: Callable[[Backend], Linears] | None = None
    pattern = assignment.sparsity
    has_lists = isinstance(pattern, TileGroup)
    needs_steps = steps is None and not engine_in(spec).steps_are_fixed
    if trial is not None or has_lists or needs_steps:
        if isinstance(spec, CoreSpec):
            placed = core_model(assignment)
            backends, steps = core_backends(placed), placed.beat_steps
            work = placed.workload(work)
        else:
            backends = functools.partial(engine_linears, assignment)
            steps = engine_steps(assignment)
    shape = model_shape(model)
    pricing = request.pricing(spec, shape, lambda _: work, steps)
    metrics = pricing.serve(request.serving)
    measured = None
    if trial is not None and backends is not None:
        measured = _measured(model, spec, backends, trial, progress)
    return Simulation(
        pricing,
        work,
        metrics,
        request,
        room_for(shape, work, request),
        assignment.recoding_record(),
        model_bits(model, weights),
        measured,
        pattern and sparsity_figures(pattern, work.linears, has_weights=True),
    )


def simulate_shape(
    shape: ModelShape,
    weights: Format,
    head: Format | None,
    spec: Accelerator,
    request: Request,
    sparsity: Sparsity | None = None,
) -> Simulation:
    """Price a model without weights, its linear layers in `weights` of which some are zero
    (`sparsity`), and its output head in `head` or on the host. Raises `RefusedError` for what they
    do not allow together."""
    pricing = shape_pricing(shape, weights, head, spec, request, sparsity)
    work = pricing.workload_of(request.serving.decode[0])
    every = pricing.workload_of(ALL_EXPERTS)
    room, metrics = room_for(shape, every, request), pricing.serve(request.serving)
    figures = sparsity and sparsity_figures(sparsity, work.linears, has_weights=False)
    return Simulation(pricing, work, metrics, request, room, None, None, None, figures)


def shape_pricing(
    shape: ModelShape,
    weights: Format,
    head: Format | None,
    spec: Accelerator,
    request: Request,
    sparsity: Sparsity | None = None,
) -> Pricing:
    """The inputs with which passes of a model without weights are priced, see `simulate_shape`."""

    @functools.cache
    def without_cache(work: Pass) -> Workload:
        return shape_workload(shape, weights, head, spec, work, sparsity)

    def workload_of(work: Pass) -> Workload:
        # Linear layers are the same whatever is in the cache, so that a curve lists them once.
        return without_cache(replace(work, cached=0))

    return request.pricing(spec, shape, workload_of)


def require_context(shape: ModelShape, serving: Serving, *, extended: bool) -> None:
    """Raise `RefusedError` unless the request fits the model's context, or `extended` allows it to
    exceed the context."""
    if extended:
        return
    limit, option, tokens = shape.context, "--prefill", serving.prefill_tokens
    if tokens <= limit and serving.contexts:
        option, tokens = "--context", max(serving.contexts)
    elif tokens <= limit:
        option, tokens = "--prefill and --decode together", serving.longest
    if tokens > limit:
        rule = f"must be at most {limit:,} tokens, the context of {shape.name}"
        beyond = "; --extend-context prices more, whose accuracy is unknown"
        raise RefusedError(f"{option}: {rule}, got {tokens:,}{beyond}")


def room_for(shape: ModelShape, work: Workload, request: Request) -> Room:
    """The bytes that a request needs in memory. `work` must include all experts."""
    serving, memory = request.serving, request.memory
    held = sum(linear.total_bits for linear in work.linears)
    absent = 0 if request.experts is None else request.experts.absent_bytes(shape, work)
    positions = shape.learned_positions
    return Room(
        weights_bytes=-(-held // 8) - absent + work.host_bytes,
        embedding_bytes=(shape.vocab + positions) * shape.hidden * VECTOR_BYTES,
        cache_bytes=serving.batch * cache_bytes(shape, serving.longest, serving.cache),
        memory_bytes=None if memory is None else memory.capacity_bytes,
    )


def _measured(
    model: LanguageModel,
    spec: Accelerator,
    backends: Callable[[Backend], Linears],
    trial: AccuracyTrial,
    progress: Callable[[float], None],
) -> Measured:
    backend = fast_backend(spec)
    linear = backends(backend)
    shipped = None if trial.original is None else host_linears(trial.original)
    accuracy = measure(
        model,
        linear,
        shipped,
        trial.text,
        trial.tokens,
        trial.window,
        progress,
        trial.original,
        kv=trial.kv,
    )
    tables_equal = None
    if backend == "integer":
        start = windows(model, trial.text, CHECK_TOKENS, trial.window)[0]
        tables = backends("golden")
        tables_equal = np.array_equal(_logits(model, linear, start), _logits(model, tables, start))
    return Measured(accuracy, backend, tables_equal)


def _logits(model: LanguageModel, linear: Linears, tokens: list[int]) -> np.ndarray:
    return head(model, linear, forward(model, linear, tokens, Cache(model.config, len(tokens))))

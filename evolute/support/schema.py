"""The content of result records: one dataclass for each kind of record.

Commands build these dataclasses and write the result of `to_record`; readers check records against
them, and `evolute.support.json_schema` makes docs/records.md of them. A field without a default is
in every record of its kind. A field with the default `ABSENT` is omitted by some commands or in
older versions.
"""

from __future__ import annotations

import dataclasses
from dataclasses import dataclass
from typing import Any


class _Absent:
    """The type of `ABSENT`."""

    def __repr__(self) -> str:
        return "ABSENT"


ABSENT: Any = _Absent()
"""The default of fields that a record may leave out."""


_Float = float
"""The type, for a class with a field of that name."""


@dataclass(frozen=True)
class Provenance:
    """How a record's numbers were obtained."""

    how: str
    tools: dict[str, str]
    seed: int | None
    revision: str | None


@dataclass(frozen=True, kw_only=True)
class Accuracy:
    """Perplexity of a model with some choice of weights, by `evolute eval` with an engine's
    arithmetic or by `make accuracy` in float32."""

    model: str
    accelerator: str = ABSENT
    spec: dict[str, Any] = ABSENT
    digest: str = ABSENT
    weights: str
    method: str
    activations: str = ABSENT
    bits_index: float
    bits_total: float
    bits_held: float | None = ABSENT
    proxy_error: float | None = ABSENT
    calibration_tokens: int | None = ABSENT
    calibration_text: str | None = ABSENT
    perplexity: float
    reference_perplexity: float | None
    kl: float | None = ABSENT
    top1: float | None = ABSENT
    tokens: int
    context: int
    stride: int | None = ABSENT
    kv: str | None = ABSENT
    text: str
    kv_bytes_per_token: int = ABSENT
    against: str | None = ABSENT
    host: list[str] = ABSENT
    recoded: dict[str, Any] | None = ABSENT
    other_text: str | None = ABSENT
    other_tokens: int | None = ABSENT
    other_perplexity: float | None = ABSENT
    other_reference_perplexity: float | None = ABSENT
    seconds: float = ABSENT
    provenance: Provenance = ABSENT


@dataclass(frozen=True)
class Perplexity:
    """Perplexity in a run of `evolute sim`: of the model as shipped (`float`, null if unknown) and
    on the accelerator (`quantized`)."""

    float: _Float | None
    quantized: _Float
    text: str
    tokens: int
    context: int
    stride: int | None = ABSENT
    kv: str | None = ABSENT
    kl: _Float | None = ABSENT
    top1: _Float | None = ABSENT
    backend: str = ABSENT
    tables_equal: bool | None = ABSENT


@dataclass(frozen=True, kw_only=True)
class SimRun:
    """A model on an accelerator, by `evolute sim`. The two phases are `PhaseMetrics` of
    `evolute.sim.cost.metrics`, with `LayerMetrics` in them; `labels` states what kind of number
    every figure of a phase is. What needs weights is null for a model without weights."""

    accelerator: str
    model: str
    weights: str
    spec: dict[str, Any] = ABSENT
    digest: str = ABSENT
    platform: dict[str, Any]
    prefill: dict[str, Any]
    decode: dict[str, Any]
    layers: list[dict[str, Any]] = ABSENT
    labels: dict[str, str] = ABSENT
    curve: list[dict[str, Any]] = ABSENT
    serving: dict[str, Any] = ABSENT
    memory: dict[str, Any] | None = ABSENT
    dram_energy: dict[str, Any] | None = ABSENT
    experts: dict[str, Any] | None = ABSENT
    idle_rows: dict[str, Any] | None = ABSENT
    room: dict[str, Any] = ABSENT
    latent_schedules: list[dict[str, Any]] | None = ABSENT
    pruning: dict[str, Any] | None = ABSENT
    pruned_sizes: dict[str, Any] | None = ABSENT
    pruned_tokens: dict[str, Any] | None = ABSENT
    extended_context: bool = ABSENT
    long_factors_reach: int | None = ABSENT
    profile: dict[str, Any] | None = ABSENT
    what_would_help: list[dict[str, Any]] | None = ABSENT
    host_layers: list[str] = ABSENT
    host_macs_per_token: int = ABSENT
    host_bytes_per_token: int = ABSENT
    recoded: dict[str, Any] | None = ABSENT
    bits_index: float | None = ABSENT
    bits_total: float | None = ABSENT
    bits_held: float | None = ABSENT
    perplexity: Perplexity | None = ABSENT
    method: str = ABSENT
    verified: dict[str, Any] | None = ABSENT
    provenance: Provenance = ABSENT


@dataclass(frozen=True, kw_only=True)
class PassRun:
    """One pass of an encoder or of a network of convolutions, by `evolute sim`. `rows` are the
    tokens of a sequence, or 1 for an image, and `batch` how many there are of these. `phase` is
    `PhaseMetrics` of `evolute.sim.cost.metrics`, whose tokens are tokens or images; `labels` says
    of every figure of it what kind of number it is. `leaves_out` tells what is not counted."""

    model: str
    architecture: str
    accelerator: str
    weights: str
    spec: dict[str, Any]
    digest: str
    platform: dict[str, Any]
    memory: dict[str, Any] | None
    rows: int
    batch: int
    kv: str | None
    phase: dict[str, Any]
    labels: dict[str, str]
    room: dict[str, Any]
    bits_held: float | None
    leaves_out: str | None
    provenance: Provenance


@dataclass(frozen=True, kw_only=True)
class RequiredCore:
    """A core with a memory, priced for a target; `label` is `bound` where its steps depend on
    weights that were not measured. Where it misses the target, `short_of` says what is short, with
    what is needed, what is reached, and the factor between them."""

    accelerator: str
    vector_lanes: int
    attention_rows: int
    memory: str
    tokens_per_s: float
    ttft_s: float
    fits: bool | None
    label: str
    short_of: list[dict[str, Any]] = ABSENT


@dataclass(frozen=True)
class RequiredRefusal:
    """A core that could not be priced, and why; with one memory, or where that is null with any."""

    accelerator: str
    memory: str | None
    reason: str


@dataclass(frozen=True, kw_only=True)
class Requirement:
    """What a speed asks for, by `evolute require`, which only prints it: lower bounds of any
    design, those of `decode` and `prefill` per pass, and the cores with memories that meet the
    target, the fastest first, or are short of it, the nearest first."""

    model: str
    weights: str
    target: dict[str, float | None]
    serving: dict[str, Any]
    bandwidth_gbs: float
    bandwidth_from: str
    macs_per_cycle: float
    macs_from: str
    frequency_mhz: float
    buffer_bytes: int
    capacity_bytes: int
    decode: dict[str, int]
    prefill: dict[str, int]
    labels: dict[str, str]
    meets: list[RequiredCore]
    short: list[RequiredCore]
    refused: list[RequiredRefusal]
    provenance: Provenance


@dataclass(frozen=True)
class QuantizedLayer:
    """One linear layer in codes: the bits that it stores, by what they are for, and its proxy error
    after each stage of the method and at the end, if it was measured."""

    name: str
    shape: list[int]
    bits: dict[str, int]
    bits_total: float
    stages: dict[str, float]
    proxy_error: float | None
    candidate: int = ABSENT


@dataclass(frozen=True)
class CalibrationText:
    """The text with which a method was calibrated: the names of the texts, and how many of their
    tokens were used in windows of `context` tokens."""

    text: str
    tokens: int
    context: int


@dataclass(frozen=True)
class QuantizationCheck:
    """Perplexities on text of a kind that was not used for calibration: of the model as shipped,
    quantized, and rounded to nearest on the same grids. `kl` is in nats per token."""

    text: str
    text_sha256: str
    tokens: int
    as_shipped: float
    quantized: float
    kl: float
    rounded: float | None
    is_worse: bool | None


@dataclass(frozen=True, kw_only=True)
class Quantization:
    """A model in codes, by `evolute quantize`, which prints this record; the folder of the model
    stores it without `files` and `seconds`."""

    method: str
    seed: int
    model: str
    key: str
    bits_index: float
    bits_total: float
    proxy_error: float | None
    layers: list[QuantizedLayer]
    calibration: CalibrationText | None
    check: QuantizationCheck | None
    files: list[str]
    seconds: float


@dataclass(frozen=True)
class Objective:
    """An objective of a study."""

    name: str
    title: str
    direction: str
    unit: str
    how: str


@dataclass(frozen=True)
class Trial:
    """One candidate of a study: measured (`complete`) or refused (`pruned`)."""

    number: int
    state: str
    feasible: bool = ABSENT
    spec: dict[str, Any] = ABSENT
    digest: str = ABSENT
    weights: str = ABSENT
    frequency_hz: float = ABSENT
    bandwidth_bytes_per_s: float = ABSENT
    metrics: dict[str, float] = ABSENT
    params: dict[str, Any] = ABSENT
    refused: str = ABSENT


@dataclass(frozen=True, kw_only=True)
class Study:
    """A search by `evolute dse`, as far as it has got."""

    study: str
    engine: str = ABSENT
    model: str = ABSENT
    text: str = ABSENT
    tokens: int = ABSENT
    context: int = ABSENT
    scope: str = ABSENT
    objectives: list[Objective]
    constraints: list[str] = ABSENT
    trials: list[Trial]
    front: list[int] = ABSENT
    hypervolume: float = ABSENT
    reference: dict[str, float] = ABSENT
    provenance: Provenance = ABSENT


@dataclass(frozen=True)
class StudySummary:
    """The output of `evolute dse --json`: the number of measured candidates, and those on the
    front."""

    study: str
    trials: int
    front: list[Trial]
    hypervolume: float
    reference: dict[str, float]
    objectives: list[Objective]


@dataclass(frozen=True)
class Cycles:
    """Total cycles of all cases of a verification."""

    rtl: int
    model: int


@dataclass(frozen=True)
class Seconds:
    """How long a verification took."""

    build: float
    run: float


@dataclass(frozen=True)
class Verification:
    """Comparison of RTL with the golden and the cycle model, by `evolute verify`."""

    preset: str
    simulator: str
    seed: int
    cases: int
    transactions: int
    elements: int
    cycles: Cycles
    mismatches: int
    differences: list[str]
    coverage: dict[str, int]
    seconds: Seconds
    spec: dict[str, Any]
    digest: str
    provenance: Provenance = ABSENT


@dataclass(frozen=True)
class MutantCounts:
    """How many mutants were tried, and what became of them."""

    tried: int
    killed: int
    equivalent: int
    survived: int


@dataclass(frozen=True)
class Mutant:
    """One fault in a design's netlist, the source line that it belongs to, and its verdict:
    `killed`, `equivalent` or `survived`, with the reason."""

    design: str
    file: str
    line: int
    change: str
    verdict: str
    reason: str
    cpu_seconds: float


@dataclass(frozen=True, kw_only=True)
class MutationCoverage:
    """Faults in the RTL and the share of them that the verification finds, by `evolute mutants`;
    `killed_share` does not count those that are proved equivalent."""

    seed: int
    tried: int
    killed: int
    equivalent: int
    survived: int
    killed_share: float
    complete: bool
    by_file: dict[str, MutantCounts]
    cpu_seconds: float
    designs: dict[str, dict[str, Any]]
    mutants: list[Mutant]
    provenance: Provenance


@dataclass(frozen=True)
class CellEnergy:
    """Energy of standard cells per product of a weight and an activation, by where it goes."""

    logic_fj: float
    """Inside gates."""
    registers_fj: float
    """Inside flip-flops, the clock's edges included."""
    switching_fj: float
    """For the capacitances of nets."""
    clock_pins_fj: float
    """For the capacitance of the flip-flops' clock pins."""
    dynamic_fj: float
    """The sum of these."""
    leakage_nw: float
    """Power that leaks, whatever the cells do."""


@dataclass(frozen=True)
class EngineEnergy:
    """What an engine's netlist took for some data, simulated cell by cell."""

    data: str
    weights: str
    macs: int
    cycles: int
    compared: int
    """Results that were compared with the golden model, all equal and in their cycle."""
    fj_per_mac: float
    """Dynamic energy and leakage of a product."""
    leakage_fj_per_mac: float
    clock_mhz: float
    """The clock at which leakage counts."""
    per_mac: CellEnergy
    blocks: dict[str, CellEnergy]
    """By the engine's parts, each mapped on its own."""


@dataclass(frozen=True, kw_only=True)
class Synthesis:
    """A netlist by `evolute synth`, of standard cells (with an area) or of an FPGA's cells."""

    accelerator: str
    spec: dict[str, Any]
    digest: str
    target: str
    area_um2: float = ABSENT
    area_ge: float = ABSENT
    total_area_um2: float | None = ABSENT
    delay_ns: float = ABSENT
    delay_is: str = ABSENT
    flops: int = ABSENT
    latches: int = ABSENT
    multipliers: int = ABSENT
    memories: list[dict[str, Any]] = ABSENT
    memory_bits: int = ABSENT
    device: str | None = ABSENT
    lut: int = ABSENT
    ff: int = ABSENT
    bram: int = ABSENT
    dsp: int = ABSENT
    fmax_mhz: float | None = ABSENT
    fmax_is: str = ABSENT
    utilization: dict[str, float] = ABSENT
    critical_path: list[dict[str, Any]] = ABSENT
    cells: dict[str, int]
    library: str = ABSENT
    licence: str = ABSENT
    tool: str
    energy: list[EngineEnergy] = ABSENT
    blocks: dict[str, Any] = ABSENT
    blocks_area_um2: float = ABSENT
    blocks_area_ge: float = ABSENT
    provenance: Provenance


@dataclass(frozen=True)
class Shape:
    """The common size of compared engines: rows, columns, and products per step of a sum."""

    m: int
    n: int
    slice_k: int


@dataclass(frozen=True)
class ComparedScaling:
    """A scaling of an engine's results that never makes the engine wait."""

    multiplier: str
    lanes: int
    period_cycles: int
    area_um2: float
    delay_ns: float


@dataclass(frozen=True)
class Compared:
    """One engine of a comparison; a refused one only has the reason. Areas do not include memories
    of `memory_bits`, and costs in area are null if there are such memories."""

    name: str
    refused: str | None
    engine: str = ABSENT
    spec: dict[str, Any] = ABSENT
    digest: str = ABSENT
    max_abs_difference: float = ABSENT
    max_rel_difference: float = ABSENT
    activation_error: float = ABSENT
    layer_error: float = ABSENT
    slice_steps: float = ABSENT
    cycles: int = ABSENT
    macs_per_cycle: float = ABSENT
    engine_um2: float = ABSENT
    scaling_um2: float = ABSENT
    area_um2: float = ABSENT
    area_ge: float = ABSENT
    cells: int = ABSENT
    delay_ns: float = ABSENT
    scalings: list[ComparedScaling] = ABSENT
    memory_bits: int = ABSENT
    dynamic_fj_per_mac: float | None = ABSENT
    """Of the engine's cells without its scaling, on the layer; null where it was not measured."""
    leakage_nw: float | None = ABSENT
    area_um2_per_mac_per_cycle: float | None = ABSENT
    area_cycles_um2: float | None = ABSENT
    area_time_um2_ns: float | None = ABSENT
    weight_bytes: int = ABSENT
    scale_bytes: int = ABSENT
    activation_bytes: int = ABSENT
    result_bytes: int = ABSENT
    moved_bytes: int = ABSENT
    library: str = ABSENT
    tool: str = ABSENT
    area_cycles_of_best: float | None = ABSENT


@dataclass(frozen=True)
class ComparedUnit:
    """One unit beside a comparison, which holds its tables in memories: the area of its logic, and
    the bits of its memories. A refused one only has the reason."""

    name: str
    refused: str | None
    spec: dict[str, Any] = ABSENT
    digest: str = ABSENT
    tokens: int = ABSENT
    cycles: int = ABSENT
    cycles_fast_encoder: int = ABSENT
    macs_per_cycle: float = ABSENT
    table_bytes: int = ABSENT
    centroid_bytes: int = ABSENT
    activation_bytes: int = ABSENT
    request_bytes: int = ABSENT
    result_bytes: int = ABSENT
    logic_um2: float = ABSENT
    logic_ge: float = ABSENT
    delay_ns: float = ABSENT
    memory_bits: int = ABSENT
    library: str = ABSENT
    tool: str = ABSENT


@dataclass(frozen=True)
class Published:
    """A published design for the same weights and activations, synthesized from its Verilog."""

    name: str
    what: str
    source: str
    area_um2_per_mac_per_cycle: float


@dataclass(frozen=True, kw_only=True)
class Setting:
    """What engines were compared on: a layer of a model, its weights and activations, and the
    engines' common size."""

    model: str
    layer: str
    n: int
    k: int
    weights: str
    codes: str = ABSENT
    group: int = ABSENT
    activations: str
    activation_bits: int = ABSENT
    rows: int
    shape: Shape
    tokens: int = ABSENT


@dataclass(frozen=True, kw_only=True)
class Comparison(Setting):
    """Engines of one size on one layer, by `evolute compare`. With `--json` it prints a list of its
    `results` and `units`, each with the fields from `model` to `tokens` added."""

    inside: str
    outside: str
    results: list[Compared]
    units: list[ComparedUnit] = ABSENT
    published: list[Published] = ABSENT
    provenance: Provenance = ABSENT


KINDS: dict[str, type] = {
    "accuracy": Accuracy,
    "compare": Comparison,
    "dse": Study,
    "mutants": MutationCoverage,
    "pass": PassRun,
    "quantize": Quantization,
    "require": Requirement,
    "sim": SimRun,
    "synth": Synthesis,
    "verify": Verification,
}
"""By the `kind` that a record states, what it holds."""


PRINTED: dict[str, type] = {"dse --json": StudySummary}
"""What a command prints with `--json` where that is shorter than its record."""

_KIND_OF = {of: kind for kind, of in KINDS.items()}


def to_record(held: Any) -> dict[str, Any]:
    """A dataclass of this module as JSON: its kind, if it has one, and its fields in order, except
    those that are `ABSENT`."""
    kind = _KIND_OF.get(type(held))
    return ({} if kind is None else {"kind": kind}) | _plain(held)


def _plain(value: Any) -> Any:
    """A value in which dataclasses are replaced by dicts, and tuples by lists."""
    if dataclasses.is_dataclass(value):
        fields = {field.name: getattr(value, field.name) for field in dataclasses.fields(value)}
        return {name: _plain(part) for name, part in fields.items() if part is not ABSENT}
    if isinstance(value, dict):
        return {name: _plain(part) for name, part in value.items()}
    return [_plain(part) for part in value] if isinstance(value, list | tuple) else value


def may_be_absent(field: dataclasses.Field[Any]) -> bool:
    """Whether some commands, or older versions, omit a field."""
    return field.default is ABSENT

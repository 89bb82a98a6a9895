"""The core's golden model against plain integers, on memory images packed beat by beat here."""

from dataclasses import dataclass

import numpy as np
import pytest

from evolute.hw.isa import instructions as isa
from evolute.hw.isa.instructions import DeadlockError, IsaError, Unit, instruction
from evolute.hw.spec import LutTensorCore, Mac, SpecError
from evolute.hw.spec.core import CoreSpec
from evolute.hw.spec.formats import TERNARY, WeightCodes
from evolute.hw.spec.presets import PRESETS
from evolute.sim.golden.core import execute

LOAD, COMPUTE, STORE = Unit
PROGRAM, WEIGHT, ACTIVATION, SCALE, RESULT = (i << 16 for i in range(5))
FORMATS = [WeightCodes(bits) for bits in range(1, 9)] + [TERNARY]


def value(engine, weight_format, q):
    """What an engine multiplies by for the code q: half steps around the middle, or whole ones."""
    levels = weight_format.levels
    return 2 * q - (levels - 1) if isinstance(engine, LutTensorCore) else q - levels // 2


@dataclass(frozen=True)
class Layer:
    """Operands of one column tile: x [rows, K], weight codes [N, K], scales, offsets [groups, N].

    K is whole slices; every `group_slices` of them share a scale and an offset.
    """

    weight_format: WeightCodes
    group_slices: int
    offset_shift: int
    x: np.ndarray
    codes: np.ndarray
    scale: np.ndarray
    offset: np.ndarray

    def sums(self, core):
        """Results by definition, [rows, N] Python integers."""
        rows, columns = len(self.x), len(self.codes)
        group = self.group_slices * core.engine.slice_k
        lowest = -core.engine.activations.maximum
        x = np.maximum(self.x, lowest).astype(object)
        values = [
            [value(core.engine, self.weight_format, int(q)) for q in row] for row in self.codes
        ]
        w = np.array(values, object)
        total = np.zeros((rows, columns), object)
        for g, start in enumerate(range(0, x.shape[1], group)):
            part = x[:, start : start + group]
            psum = part @ w[:, start : start + group].T
            offsets = self.offset[g].astype(object) * 2**self.offset_shift
            total += self.scale[g].astype(object) * psum + part.sum(axis=1)[:, None] * offsets
        return total


def wrapped(values, bits):
    """Python integers as two's complement of `bits`."""
    return (values + (1 << bits - 1)) % (1 << bits) - (1 << bits - 1)


def random_layer(core, rng, slices, row_tiles):
    engine = core.engine
    weight_format = FORMATS[rng.integers(len(FORMATS))]
    group_slices = int(rng.integers(1, engine.group_slices + 1))
    groups, columns = -(-slices // group_slices), engine.n
    top = 1 << engine.activation_bits - 1
    half = 1 << core.offset_bits - 1
    length = slices * engine.slice_k
    return Layer(
        weight_format,
        group_slices,
        int(rng.integers(0, 16)),
        rng.integers(-top, top, (row_tiles * engine.m, length)),
        rng.integers(0, weight_format.levels, (columns, length)),
        rng.integers(0, 1 << core.scale_bits, (groups, columns)),
        rng.integers(-half, half, (groups, columns)),
    )


# A packer of its own: every beat is one Python integer.


def beat_words(buffer, beats):
    """Beats as bytes of whole bus words: `stride_bits` apart."""
    word = sum(beat << i * buffer.stride_bits for i, beat in enumerate(beats))
    return word.to_bytes(buffer.words(len(beats)) * buffer.bus_bits // 8, "little")


def elements(values, bits):
    """Elements of one field, in order, as an integer."""
    return sum((int(value) % (1 << bits)) << i * bits for i, value in enumerate(values))


def planes_and_mode(engine, weight_format):
    """Bit planes by tables, of which ternary ones weigh the same; whole codes by multipliers."""
    if isinstance(engine, LutTensorCore):
        return weight_format.bits, int(weight_format == TERNARY)
    return 1, 0


def folded_signs(engine, layer, start, plane):
    """One plane of a slice's codes: sign bits, in each table XORed with its top one."""
    codes = []
    for column in layer.codes:
        for table in range(start, start + engine.slice_k, engine.k):
            q = [int(code) for code in column[table : table + engine.k]]
            ternary = layer.weight_format == TERNARY
            signs = [int(c > plane) if ternary else c >> plane & 1 for c in q]
            folded = [sign ^ signs[-1] for sign in signs[:-1]]
            codes.append(elements([*folded, signs[-1]], 1))
    return elements(codes, engine.k)


def whole_codes(engine, layer, start, plane):
    """A slice's weights in two's complement."""
    part = layer.codes[:, start : start + engine.slice_k].ravel()
    weights = [value(engine, layer.weight_format, int(q)) for q in part]
    return elements(weights, engine.weight_bits)


def weight_bytes(core, layer):
    engine = core.engine
    beat = folded_signs if isinstance(engine, LutTensorCore) else whole_codes
    planes, _ = planes_and_mode(engine, layer.weight_format)
    beats = [
        beat(engine, layer, start, plane)
        for start in range(0, layer.codes.shape[1], engine.slice_k)
        for plane in range(planes)
    ]
    return beat_words(core.weight_buffer, beats)


def activation_bytes(core, layer):
    engine = core.engine
    beats = [
        elements(
            layer.x[row : row + engine.m, k : k + engine.slice_k].ravel(), engine.activation_bits
        )
        for row in range(0, len(layer.x), engine.m)
        for k in range(0, layer.x.shape[1], engine.slice_k)
    ]
    return beat_words(core.activation_buffer, beats)


def scale_bytes(core, layer):
    lanes = core.scale_lanes
    beats = [
        elements(scale[n : n + lanes], core.scale_bits)
        | elements(offset[n : n + lanes], core.offset_bits) << lanes * core.scale_bits
        for scale, offset in zip(layer.scale, layer.offset, strict=True)
        for n in range(0, core.engine.n, lanes)
    ]
    return beat_words(core.scale_buffer, beats)


def put(memory, address, data):
    memory[address : address + len(data)] = np.frombuffer(data, np.uint8)
    return len(data)


def matmul(core, layer, **changes):
    planes, mode = planes_and_mode(core.engine, layer.weight_format)
    return instruction(
        "matmul",
        slices=layer.x.shape[1] // core.engine.slice_k,
        row_tiles=len(layer.x) // core.engine.m,
        group_slices=layer.group_slices,
        planes=planes,
        mode=mode,
        offset_shift=layer.offset_shift,
        **{"weight": 0, "activation": 0, "scale": 0, "accumulator": 0, "accumulate": 0, **changes},
    )


def loads(core, memory, layer, offset=0, address=(0, 0, 0), **tokens):
    """Puts a layer's operands into memory, `offset` bytes on, and loads them; the last signals."""
    packed = weight_bytes(core, layer), activation_bytes(core, layer), scale_bytes(core, layer)
    program = []
    for number, (base, data) in enumerate(zip((WEIGHT, ACTIVATION, SCALE), packed, strict=True)):
        put(memory, base + offset, data)
        program.append(
            instruction(
                "load",
                buffer=number,
                address=address[number],
                words=len(data) // core.bus_bytes,
                memory=base + offset,
                wait=tokens.get("wait", ()) if number == 0 else (),
                signal=tokens.get("signal", ()) if number == 2 else (),
            )
        )
    return program


def run(core, memory, program, **options):
    put(memory, PROGRAM, isa.to_bytes(program))
    execute(core, memory, PROGRAM, len(program), **options)


def result(core, memory, layer, offset=0):
    size = len(layer.x) * core.engine.n * 8
    found = memory[RESULT + offset : RESULT + offset + size].view("<i8")
    return found.reshape(len(layer.x), core.engine.n)


def store(core, layer, offset=0, accumulator=0, **tokens):
    words = len(layer.x) * core.engine.n * 64 // core.bus_bits
    return instruction(
        "store", accumulator=accumulator, words=words, memory=RESULT + offset, **tokens
    )


def blank(rng):
    return rng.integers(0, 256, 5 << 16).astype(np.uint8)


def random_core(rng, kind):
    own = {"kg": int(rng.integers(1, 5))} if kind is LutTensorCore else {}
    while True:
        engine = kind(
            m=int(rng.integers(1, 4)),
            n=int(rng.choice([1, 2, 4, 6, 8, 16])),
            k=int(rng.integers(2, 7)),
            activation_bits=int(rng.choice([4, 8, 13, 16])),
            weight_bits=8,
            group_size=int(rng.integers(1, 100)),
            **own,
        )
        try:
            return CoreSpec(
                engine=engine,
                bus_bits=int(rng.choice([64, 128, 256, 512])),
                burst_beats=16,
                weight_buffer_bytes=65536,
                activation_buffer_bytes=32768,
                scale_buffer_bytes=32768,
                accumulators=int(rng.choice([256, 512])),
                scale_lanes=int(rng.choice([1, 2, 4, 8])),
                scale_bits=int(rng.choice([2, 5, 8, 16])),
                offset_bits=int(rng.choice([2, 7, 8, 16])),
                sum_bits=int(rng.integers(engine.acc_bits, 65)),
            )
        except SpecError:
            continue


@pytest.mark.parametrize("kind", [LutTensorCore, Mac])
@pytest.mark.parametrize("seed", range(40))
def test_a_layer_equals_its_definition(seed, kind):
    """Two runs of K, the second added to the first, in a bank and at addresses of its own."""
    rng = np.random.default_rng(seed)
    core = random_core(rng, kind)
    row_tiles = int(rng.integers(1, core.bank_words // core.scale_steps + 1))
    row_tiles = min(row_tiles, 4)
    first, second = (random_layer(core, rng, int(rng.integers(1, 20)), row_tiles) for _ in "ab")
    memory = blank(rng)
    bank = core.bank_words * int(rng.integers(2))
    half = tuple(buffer.bus_words // 2 for buffer in core.buffers)
    places = dict(zip(isa.BUFFERS, half, strict=True))
    program = [
        *loads(core, memory, first, signal=[COMPUTE]),
        *loads(core, memory, second, offset=1 << 15, address=half, signal=[COMPUTE]),
        with_tokens(matmul(core, first, accumulator=bank), wait=[LOAD]),
        with_tokens(
            matmul(core, second, accumulator=bank, accumulate=1, **places),
            wait=[LOAD],
            signal=[STORE],
        ),
        store(core, first, accumulator=bank, wait=[COMPUTE]),
        instruction("halt"),
    ]
    before = memory.copy()
    run(core, memory, program)
    found = result(core, memory, first)
    expected = wrapped(first.sums(core) + second.sums(core), core.sum_bits)
    wrong = np.argwhere(found != expected)
    assert not len(wrong), f"{core.digest} seed {seed}: first wrong row, column {wrong[0]}"
    changed = np.flatnonzero(memory[len(program) * 16 :] != before[len(program) * 16 :])
    changed += len(program) * 16
    assert (changed >= RESULT).all()
    assert (changed < RESULT + found.nbytes).all()


def with_tokens(each, wait=(), signal=()):
    return isa.Instruction(each.operation, each.values, frozenset(wait), frozenset(signal))


# Tokens.


@pytest.fixture(scope="module")
def core():
    return CoreSpec(
        engine=LutTensorCore(m=1, n=4, k=4, kg=1, weight_bits=8),
        bus_bits=64,
        weight_buffer_bytes=1024,
        activation_buffer_bytes=512,
        scale_buffer_bytes=512,
        accumulators=8,
    )


def pipeline(core, memory, rng, tiles=6):
    """Layers one after another through halves of every buffer: loads run ahead of computing, and
    computing of storing, with tokens for what comes and for what becomes free."""
    layers = [random_layer(core, rng, 4, 1) for _ in range(tiles)]
    program = []
    for i, layer in enumerate(layers):
        half = [buffer.bus_words // 2 * (i % 2) for buffer in core.buffers]
        bank = core.bank_words * (i % 2)
        places = dict(zip(isa.BUFFERS, half, strict=True))
        free = [COMPUTE] if i > 1 else []
        stored = [STORE] if i > 1 else []
        program += [
            *loads(core, memory, layer, i << 12, half, wait=free, signal=[COMPUTE]),
            with_tokens(
                matmul(core, layer, accumulator=bank, **places),
                wait=[LOAD, *stored],
                signal=[LOAD, STORE],
            ),
            store(core, layer, i << 12, accumulator=bank, wait=[COMPUTE], signal=[COMPUTE]),
        ]
    return layers, [*program, instruction("halt")]


def correct(core, memory, layers):
    return all(
        (result(core, memory, layer, i << 12) == wrapped(layer.sums(core), core.sum_bits)).all()
        for i, layer in enumerate(layers)
    )


def outcomes(core, memory, layers, program, seeds=40):
    """Whether the program is correct, in each of many orders."""
    found = []
    for seed in range(seeds):
        image = memory.copy()
        run(core, image, program, rng=np.random.default_rng(seed))
        found.append(correct(core, image, layers))
    return found


def test_a_program_with_all_tokens_is_correct_in_every_order(core):
    rng = np.random.default_rng(1)
    memory = blank(rng)
    layers, program = pipeline(core, memory, rng)
    assert all(outcomes(core, memory, layers, program))


def test_every_missing_token_shows_in_some_order(core):
    rng = np.random.default_rng(2)
    memory = blank(rng)
    layers, program = pipeline(core, memory, rng)
    pairs = {(source, each.operation.unit) for each in program for source in each.wait}
    assert len(pairs) == 4
    for source, sink in pairs:
        lacking = [
            with_tokens(
                each,
                each.wait - ({source} if each.operation.unit == sink else set()),
                each.signal - ({sink} if each.operation.unit == source else set()),
            )
            for each in program
        ]
        assert not all(outcomes(core, memory, layers, lacking)), f"{source.name} to {sink.name}"


def test_a_missing_load_shows_against_noise(core):
    rng = np.random.default_rng(3)
    memory = blank(rng)
    layers, program = pipeline(core, memory, rng, tiles=1)
    for dropped in (0, 1):
        lacking = [each for i, each in enumerate(program) if i != dropped]
        assert not any(outcomes(core, memory, layers, lacking, seeds=3))


def test_the_host_works_between_sync_and_resume(core):
    rng = np.random.default_rng(4)
    memory = blank(rng)
    layer, other = (random_layer(core, rng, 4, 1) for _ in "ab")
    sums = with_tokens(matmul(core, layer), wait=[LOAD], signal=[STORE])
    program = [
        *loads(core, memory, layer, signal=[COMPUTE]),
        with_tokens(sums, wait=[LOAD], signal=[STORE]),
        store(core, layer, wait=[COMPUTE], signal=[LOAD]),
        instruction("sync", wait=[STORE]),
        *loads(core, memory, layer, signal=[COMPUTE]),
        with_tokens(sums, wait=[LOAD], signal=[STORE]),
        store(core, layer, 1 << 12, wait=[COMPUTE]),
        instruction("halt"),
    ]
    seen = []

    def host():
        seen.append(result(core, memory, layer).copy())
        put(memory, ACTIVATION, activation_bytes(core, other))

    run(core, memory, program, host=host)
    assert (seen[0] == layer.sums(core)).all()
    changed = Layer(**{**vars(layer), "x": other.x})
    assert (result(core, memory, layer, 1 << 12) == changed.sums(core)).all()


def test_a_sync_does_not_wait_for_loads(core):
    """Without a token in between, the host may change memory before or after a load reads it."""
    rng = np.random.default_rng(6)
    memory = blank(rng)
    layer, other = (random_layer(core, rng, 4, 1) for _ in "ab")
    changed = Layer(**{**vars(layer), "x": other.x})
    program = [
        *loads(core, memory, layer, signal=[COMPUTE]),
        instruction("sync"),
        with_tokens(matmul(core, layer), wait=[LOAD], signal=[STORE]),
        store(core, layer, wait=[COMPUTE]),
        instruction("halt"),
    ]
    seen = set()
    for seed in range(40):
        image = memory.copy()
        late = activation_bytes(core, other)
        run(
            core,
            image,
            program,
            host=lambda image=image, late=late: put(image, ACTIVATION, late),
            rng=np.random.default_rng(seed),
        )
        found = result(core, image, layer)
        seen.add(
            (bool((found == layer.sums(core)).all()), bool((found == changed.sums(core)).all()))
        )
    assert seen == {(True, False), (False, True)}


def test_refusals_name_the_instruction(core):
    def refused(program, kind=IsaError):
        with pytest.raises(kind) as caught:
            run(core, np.zeros(1 << 16, np.uint8), program)
        return str(caught.value)

    def load(**changes):
        values = {"buffer": 0, "address": 0, "words": 1, "memory": 0, **changes}
        return instruction("load", **values)

    halt = instruction("halt")
    assert refused([load(), load(buffer=3), halt]).startswith("instruction 1: load buffer")
    assert refused([load(memory=1 << 16), halt]) == (
        "instruction 0: reaches beyond 65536 bytes of memory"
    )
    assert refused([load()]) == "program: must end with its only halt, got halts at []"
    stuck = [
        instruction("sync", wait=[COMPUTE, STORE], signal=[STORE]),
        *[load()] * core.queue_instructions,
        instruction("sync", wait=[STORE]),
        instruction("store", accumulator=0, words=1, memory=0, wait=[LOAD], signal=[LOAD]),
        halt,
    ]
    assert refused(stuck, DeadlockError) == (
        "deadlock: instruction 0 waits for a signal from compute and store; "
        "instruction 4 waits for room in the load queue"
    )


@pytest.mark.parametrize("name", ["core-decode", "core-prefill", "core-fpga"])
def test_presets_run_a_layer(name):
    core = PRESETS[name].spec
    assert isinstance(core, CoreSpec)
    rng = np.random.default_rng(5)
    memory = blank(rng)
    layer = random_layer(core, rng, 9, 1)
    if not core.engine.accepts(layer.weight_format):
        layer = Layer(**{**vars(layer), "weight_format": WeightCodes(4), "codes": layer.codes & 15})
    program = [
        *loads(core, memory, layer, signal=[COMPUTE]),
        with_tokens(matmul(core, layer), wait=[LOAD], signal=[STORE]),
        store(core, layer, wait=[COMPUTE]),
        instruction("halt"),
    ]
    run(core, memory, program, rng=rng)
    assert (result(core, memory, layer) == layer.sums(core)).all()

"""VPTQ against plainer forms of its parts, and against published figures."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import pytest

from evolute.sw.checkpoints.vptq_file import (
    column_order,
    join_groups,
    unpack_indices,
    with_outliers,
)
from evolute.sw.quantizers.gptq import inverse_factor
from evolute.sw.quantizers.hessian import Moments, damped
from evolute.sw.quantizers.methods import parse_method
from evolute.sw.quantizers.vptq.choice import Vptq, cut, require_useful, stored_bits
from evolute.sw.quantizers.vptq.codebooks import fit_codebooks
from evolute.sw.quantizers.vptq.forms import published, to_tensor
from evolute.sw.quantizers.vptq.indices import _CANDIDATES, _search, find_indices
from evolute.sw.quantizers.vptq.parts import VectorPart
from evolute.sw.quantizers.vptq.quantize import _strongest, vptq
from evolute.sw.tensors.bits import bits_of
from evolute.sw.tensors.tensor import PartedTensor, QuantError, QuantTensor

CHOICES = [
    Vptq(v=4, entries=16),
    Vptq(v=4, entries=16, residual_entries=8),
    Vptq(v=4, entries=16, groups=3),
    Vptq(v=4, entries=16, residual_entries=8, outliers=5, outlier_v=2, outlier_entries=16),
    Vptq(v=5, entries=16, norm="consistent"),
    Vptq(v=4, entries=16, norm="released", groups=2, outliers=2, outlier_entries=8),
    Vptq(v=4, along="inputs", entries=16),
    Vptq(v=5, along="inputs", entries=16, residual_entries=8),
    Vptq(v=4, along="inputs", entries=16, groups=3),
    Vptq(v=5, along="inputs", entries=16, outliers=5, outlier_v=2, norm="consistent"),
]


def layer(n: int = 30, k: int = 48, seed: int = 0) -> tuple[np.ndarray, Moments]:
    """Weights with columns of their own spread and mean, and inputs that are correlated."""
    rng = np.random.default_rng(seed)
    x = rng.normal(size=(6 * k, k)) @ (np.eye(k) + 0.3 * rng.normal(size=(k, k)))
    x *= rng.lognormal(size=k)
    w = rng.normal(size=(n, k)) * rng.lognormal(sigma=0.5, size=k) + 0.3 * rng.normal(size=k)
    second = (x.T @ x / len(x)).astype(np.float32)
    peak = np.abs(x).max(axis=0).astype(np.float32)
    return w.astype(np.float32), Moments(second, peak, len(x))


def run(choice: Vptq, w: np.ndarray, moments: Moments, seed: int = 0):
    return vptq(w, moments, choice, np.random.default_rng(seed))


@pytest.mark.parametrize("choice", CHOICES)
def test_integers_are_what_the_layer_is(choice: Vptq) -> None:
    """What engines get dequantizes to the layer, up to float32; its bits are those foretold."""
    w, moments = layer()
    found, stages = run(choice, w, moments)
    tensor = to_tensor(found)
    np.testing.assert_allclose(tensor.dequantize(), found.dequantize(), rtol=0, atol=1e-5)
    assert tensor.total_bits == sum(stored_bits(choice, *w.shape).values())
    plain = choice.groups == 1 and not choice.outliers and choice.norm == "none"
    assert isinstance(tensor, QuantTensor if plain else PartedTensor)
    assert stages["feedback"] < stages["codebook"] < 1
    assert min(stages.values()) == list(stages.values())[-1]


@pytest.mark.parametrize(("choice", "padding"), [(CHOICES[0], 96), (CHOICES[7], 84)])
def test_what_no_weight_has_is_padding(choice: Vptq, padding: int) -> None:
    """Of 30 x 48 weights: 2 of 32 outputs in 8 x 48 codewords; or 2 of 50 inputs in 30 x 10."""
    tensor = to_tensor(run(choice, *layer())[0])
    assert isinstance(tensor, QuantTensor)
    found = bits_of(tensor)
    assert found.padding == padding
    assert found.total == tensor.total_bits


def test_equal_seeds_give_equal_bits() -> None:
    w, moments = layer()
    runs = [run(CHOICES[3], w, moments, seed)[0].dequantize().tobytes() for seed in (1, 1, 2)]
    assert runs[0] == runs[1] != runs[2]


def part(choice: Vptq, k: int, books: list[np.ndarray], n: int) -> VectorPart:
    along, v = choice.along, choice.v
    shape = (-(-n // v), k) if along == "outputs" else (n, -(-k // v))
    index = [np.zeros(shape, int) for _ in books]
    return VectorPart(slice(0, k), v, along, [book.astype(float) for book in books], index)


def test_the_loop_equals_the_surgeon_step_by_step() -> None:
    """Nearest codewords, column by column, the others moved by the inverse of what is left of H."""
    rng, (w, moments) = np.random.default_rng(1), layer(10, 24)
    h, book = damped(moments.second, moments.tokens), rng.normal(size=(12, 5))
    held = part(Vptq(v=5), 24, [book], 10)
    wanted = find_indices(w.astype(float), inverse_factor(h), [held])
    rest = w.astype(float)
    for j in range(24):
        inverse = np.linalg.inv(h[j:, j:])
        np.testing.assert_allclose(wanted[:, j], rest[:, j], atol=1e-6)
        index = np.square(rest[:, j].reshape(2, 5)[:, None] - book).sum(axis=2).argmin(axis=1)
        assert np.array_equal(held.index[0][:, j], index)
        error = rest[:, j] - book[index].ravel()
        rest[:, j:] -= error[:, None] / inverse[0, 0] * inverse[0]


@pytest.mark.parametrize("v", [1, 2, 3, 4])
def test_vectors_of_inputs_leave_the_least_error(v: int) -> None:
    """Of all codewords the one with which most is made up for later, found by least squares for
    each of them, one vector after another; the last may be short."""
    rng, (w, moments) = np.random.default_rng(1), layer(3, 11)
    h, book = damped(moments.second, moments.tokens), rng.normal(size=(6, v))
    held = part(Vptq(v=v, along="inputs"), 11, [book], 3)
    wanted = find_indices(w.astype(float), inverse_factor(h), [held])
    rest = w.astype(float)
    for place, start in enumerate(range(0, 11, v)):
        end = min(start + v, 11)
        np.testing.assert_allclose(wanted[:, start:end], rest[:, start:end], atol=1e-6)
        root = np.linalg.cholesky(h[start:, start:]).T  # |root @ e|^2 = e H e^T
        here, later = root[:, : end - start], root[:, end - start :]
        off = here @ (rest[:, None, start:end] - book[:, : end - start]).transpose(0, 2, 1)
        moved = np.linalg.lstsq(later, -off.transpose(1, 0, 2).reshape(len(root), -1))[0]
        moved = moved.reshape(-1, 3, 6).transpose(1, 0, 2)
        best = np.square(off + later @ moved).sum(axis=1).argmin(axis=1)
        assert np.array_equal(held.index[0][:, place], best)
        rest[:, end:] -= moved[np.arange(3), :, best]


def test_vectors_of_one_weight_lie_along_either() -> None:
    rng, (w, moments) = np.random.default_rng(4), layer(6, 70)
    factor, book = inverse_factor(damped(moments.second, moments.tokens)), rng.normal(size=(9, 1))
    held = [part(Vptq(v=1, along=along), 70, [book], 6) for along in ("outputs", "inputs")]
    wanted = [find_indices(w.astype(float), factor, [each]) for each in held]
    assert np.array_equal(held[0].index[0], held[1].index[0])
    assert np.array_equal(wanted[0], wanted[1])


def test_neighbours_stay_together() -> None:
    """Along inputs: blocks by the strength of their columns, the short one last."""
    strength = np.array([1, 9, 0, 0, 0, 8, 4, 8, 50])
    assert _strongest(strength, np.arange(9), 2).tolist() == [6, 7, 0, 1, 4, 5, 2, 3, 8]
    w, moments = layer()
    found, _ = run(Vptq(v=5, along="inputs", entries=16), w, moments)
    blocks = found.order[:45].reshape(-1, 5)
    assert (np.diff(blocks, axis=1) == 1).all() and (blocks[:, 0] % 5 == 0).all()
    assert found.order[45:].tolist() == [45, 46, 47]
    sums = np.diag(moments.second)[blocks].sum(axis=1)
    assert (np.diff(sums) <= 0).all()


def test_two_codewords_are_searched_together() -> None:
    """With all codewords as candidates, the best of all pairs."""
    rng = np.random.default_rng(2)
    vectors, books = rng.normal(size=(50, 3)), rng.normal(size=(2, 8, 3)).astype(np.float32)
    assert _CANDIDATES >= 8
    main, added = _search(vectors, books[0], books[1])
    pairs = books[0][:, None] + books[1]
    error = np.square(vectors[:, None, None] - pairs).sum(axis=3)
    best = error.reshape(50, -1).min(axis=1)
    np.testing.assert_allclose(error[np.arange(50), main, added], best, rtol=1e-5)


def test_fitting_solves_the_least_squares() -> None:
    """Against a dense system with one unknown per component: rows of the design are weights."""
    rng, (w, moments) = np.random.default_rng(3), layer(8, 20)
    h = damped(moments.second, moments.tokens)
    held = part(Vptq(v=4), 20, [rng.normal(size=(5, 4)), rng.normal(size=(3, 4))], 8)
    held.index = [rng.integers(0, 5, (2, 20)), rng.integers(0, 3, (2, 20))]
    root = np.linalg.cholesky(h).T  # |root @ e|^2 = e H e^T
    for t in range(4):
        rows = [0 * 4 + t, 4 + t]
        design = np.concatenate(
            [
                root @ np.hstack([np.eye(5)[held.index[0][r]], np.eye(3)[held.index[1][r]]])
                for r in range(2)
            ]
        )
        target = np.concatenate([root @ w[row] for row in rows])
        held_t = np.linalg.lstsq(design, target, rcond=None)[0]
        least = np.square(design @ held_t - target).sum()
        trial = part(Vptq(v=4), 20, held.books, 8)
        trial.index = held.index
        fit_codebooks(w.astype(float), h, [trial])
        found = np.concatenate(trial.books)[:, t]
        assert np.square(design @ found - target).sum() == pytest.approx(least, rel=1e-4)


@pytest.mark.parametrize("sizes", [(6,), (6, 3)])
def test_fitting_along_inputs_solves_the_least_squares(sizes: tuple[int, ...]) -> None:
    """Against a dense system with one unknown per component, and with a short last vector."""
    rng, (w, moments) = np.random.default_rng(3), layer(8, 19)
    h, start = (
        damped(moments.second, moments.tokens),
        [rng.normal(size=(size, 4)) for size in sizes],
    )
    held = part(Vptq(v=4, along="inputs"), 19, start, 8)
    held.index = [rng.integers(0, size - 1, (8, 5)) for size in sizes]  # none is of the last
    root = np.linalg.cholesky(h).T
    design = []
    for row in range(8):
        unknowns = [
            np.eye(book.size).reshape(*book.shape, -1)[index[row]].reshape(20, -1)[:19]
            for book, index in zip(start, held.index, strict=True)
        ]
        design.append(root @ np.hstack(unknowns))
    design = np.concatenate(design)
    target = (w.astype(float) @ root.T).ravel()
    solved = np.linalg.lstsq(design, target)[0]

    def error(books: list[np.ndarray]) -> float:
        return np.square(design @ np.concatenate([book.ravel() for book in books]) - target).sum()

    least = np.square(design @ solved - target).sum()
    fit_codebooks(w.astype(float), h, [held])
    assert error(held.books) - least < 1e-5 * (error(start) - least)
    assert np.array_equal(held.books[0][-1], start[0][-1])


def test_the_consistent_hessian_beats_the_released_norm() -> None:
    for seed in range(3):
        w, moments = layer(160, 64, seed)
        errors = {
            norm: list(run(Vptq(v=4, entries=16, norm=norm), w, moments)[1].values())[-1]
            for norm in ("consistent", "released")
        }
        assert errors["consistent"] < 0.9 * errors["released"]


def test_outliers_and_groups_pay_for_their_bits() -> None:
    w, moments = layer(160, 64)
    plain = Vptq(v=4, entries=16)
    error = {
        choice: list(run(choice, w, moments)[1].values())[-1]
        for choice in (plain, replace(plain, groups=4), replace(plain, outliers=5))
    }
    assert all(each < error[plain] for choice, each in error.items() if choice != plain)


def test_columns_are_cut_evenly() -> None:
    assert cut(Vptq(groups=4, outliers=1), 4096) == (44, 1013)
    assert cut(Vptq(outliers=1), 576) == (6, 570)
    assert cut(Vptq(), 576) == (0, 576)
    with pytest.raises(QuantError, match="leave no column"):
        cut(Vptq(groups=9, outliers=50), 8)
    assert cut(Vptq(v=4, along="inputs", groups=3), 48) == (0, 16)
    with pytest.raises(QuantError, match="whole vectors of 5 inputs, got 16"):
        cut(Vptq(v=5, along="inputs", groups=3), 48)


def test_a_codebook_larger_than_what_it_encodes_is_refused() -> None:
    require_useful(Vptq(v=8, entries=256), 576, 576)
    with pytest.raises(QuantError, match=r"codebooks of 3,145,728 bits for indices of 497,664"):
        require_useful(Vptq(v=8, entries=4096, residual_entries=0, half=True, groups=6), 576, 576)


LLAMA2_7B = [((4096, 4096), 4), ((11008, 4096), 2), ((4096, 11008), 1)]
LLAMA2_13B = [((5120, 5120), 4), ((13824, 5120), 2), ((5120, 13824), 1)]
LLAMA3_8B = [((4096, 4096), 2), ((1024, 4096), 2), ((14336, 4096), 2), ((4096, 14336), 1)]
V6 = Vptq(v=6, entries=4096, half=True)
V12 = Vptq(v=12, entries=4096, residual_entries=4096, outliers=1, outlier_v=4, half=True)


@pytest.mark.parametrize(
    ("shapes", "choice", "published"),
    [
        (LLAMA2_7B, V6, 2.02),
        (LLAMA2_13B, V6, 2.02),
        (LLAMA2_7B, replace(V12, groups=4, outlier_entries=8192), 2.26),
        (LLAMA3_8B, replace(V12, outlier_entries=4096), 2.08),
    ],
)
def test_published_totals_are_reproduced(shapes, choice: Vptq, published: float) -> None:
    """Bits per weight of whole models in the paper's tables, to their last digit."""
    bits = sum(count * sum(stored_bits(choice, *shape).values()) for shape, count in shapes)
    weights = sum(count * shape[0] * shape[1] for shape, count in shapes)
    assert round(bits / weights, 2) == published


PUBLISHED = [
    Vptq(v=6, entries=16, half=True),
    Vptq(v=8, entries=16, residual_entries=16, groups=2, half=True),
    Vptq(v=6, entries=32, residual_entries=8, outliers=4, outlier_v=4, norm="released", half=True),
    Vptq(v=12, entries=16, outliers=4, outlier_v=4, groups=4, norm="consistent", half=True),
]


@pytest.mark.parametrize("choice", PUBLISHED)
def test_the_published_form_stands_for_the_same_weights(choice: Vptq) -> None:
    """Decoded with what reads published files, in float32, bit for bit."""
    w, moments = layer(50, 64)
    found, _ = run(choice, w, moments)
    settings, tensors = published(found)
    bits = [(size - 1).bit_length() for size in (choice.entries, choice.residual_entries or 1)]
    indices = unpack_indices(tensors["indices"], settings["group_size"], *bits)
    groups = choice.groups
    books = tensors["centroids.weight"].astype(np.float32).reshape(groups, -1, choice.v)
    parts = np.stack([book[index] for book, index in zip(books, indices.main, strict=True)])
    if indices.residual is not None:
        added = tensors["res_centroids.weight"].astype(np.float32).reshape(groups, -1, choice.v)
        parts += np.stack([book[i] for book, i in zip(added, indices.residual, strict=True)])
    stored = join_groups(parts, 50)
    if settings["outlier_size"]:
        book = tensors["outlier_centroids.weight"][0].reshape(-1, choice.outlier_v)
        outliers = book.astype(np.float32)[tensors["outlier_indices"].view(np.uint16)]
        stored = with_outliers(join_groups(outliers, 50), stored)
    whole = np.empty_like(stored)
    whole[:, column_order(tensors["perm"])] = stored
    if settings["enable_norm"]:
        whole = whole * tensors["weight_scale"].astype(np.float32)
        whole = whole + tensors["weight_bias"].astype(np.float32)
    assert np.array_equal(whole, found.dequantize())


@pytest.mark.parametrize("choice", PUBLISHED)
def test_the_published_package_dequantizes_the_same(choice: Vptq) -> None:
    """Bit for bit, in float32, through a layer of the `vptq` package."""
    vptq_package = pytest.importorskip("vptq")
    torch = pytest.importorskip("torch")
    w, moments = layer(50, 64)
    found, _ = run(choice, w, moments)
    settings, tensors = published(found)
    del settings["norm_dim"]  # of its other branch
    made = vptq_package.VQuantLinear(**settings, dtype=torch.float32, enable_proxy_error=False)
    state = {name: torch.from_numpy(np.ascontiguousarray(each)) for name, each in tensors.items()}
    state = {n: t.float() if t.dtype == torch.float16 else t for n, t in state.items()}
    made.load_state_dict(state, strict=True)
    whole = made(torch.eye(64)).detach().numpy().T  # a product with one factor is exact
    assert np.array_equal(whole, found.dequantize())


def test_integers_have_no_published_form() -> None:
    w, moments = layer()
    with pytest.raises(QuantError, match="half-precision codewords"):
        published(run(CHOICES[0], w, moments)[0])
    with pytest.raises(QuantError, match="along: must be outputs in the published form"):
        published(run(Vptq(v=4, along="inputs", entries=8, half=True), w, moments)[0])
    swapped = Vptq(v=4, entries=8, residual_entries=16, half=True)
    with pytest.raises(QuantError, match="residual codewords"):
        published(run(swapped, w, moments)[0])


def test_names_mean_what_they_say() -> None:
    def named(text: str) -> Vptq:
        (found,) = parse_method(text).candidates
        assert isinstance(found, Vptq)
        return found

    assert named("vptq-v8k256r256") == Vptq(v=8, entries=256, residual_entries=256)
    assert named("vptq-v4k16g2o1.5n") == Vptq(
        v=4, entries=16, groups=2, outliers=1.5, norm="consistent"
    )
    full = named("vptq-v6k4096o1v3k64nr")
    assert (full.outlier_v, full.outlier_entries, full.norm) == (3, 64, "released")
    assert named("vptq-v2k16i") == Vptq(v=2, entries=16, along="inputs")
    assert named("vptq-v4k16r8ig2o1v2k8nr") == Vptq(
        v=4,
        along="inputs",
        entries=16,
        residual_entries=8,
        groups=2,
        outliers=1,
        outlier_v=2,
        outlier_entries=8,
        norm="released",
    )
    for text in (
        "vptq-v8",
        "vptq-v8k100",
        "vptq-v20k256",
        "vptq-v8k256x",
        "vptq-v8k256g0",
        "vptq-iv2k4",
        "vq",
    ):
        with pytest.raises(QuantError, match="method: "):
            parse_method(text)

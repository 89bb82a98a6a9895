"""Training of tables by centroid within the model (LUTBoost of LUT-DLA, HPCA 2025, arXiv
2501.10658).

It begins with the tables of `sw.quantizers.lut_dla`. In the first quarter of the steps only
centroids are trained, then centroids and weights. A table is the products of its centroids with the
weights, plus a rest that stays as it was fitted.

The loss of a step is the divergence of the predictions from the original model's, plus a term for
every layer. With s the layer's outputs by weights, q those by tables and sg stopping the gradient,
the term is mean((sg(q) - s)^2) + mean((q - sg(s))^2), divided by the mean square of s. The forward
pass uses q; the inputs get the gradient of s (straight-through estimator).

In every step activations, centroids and table entries are rounded as in an engine. Equal versions
of PyTorch on an equal CPU give equal results, because there is one thread and each step's window is
drawn from the seed and the step's number alone. So a run can continue from its last saved state.
"""

# PyTorch is no dependency of this package, so it may be absent where types are checked.
# pyright: reportMissingImports=false

from __future__ import annotations

import contextlib
import math
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, fields, replace
from pathlib import Path

import numpy as np
import safetensors
import torch
import torch.nn.functional as F
from numpy.typing import NDArray

from evolute.hw.spec.formats import Kind, WeightCodes
from evolute.sim.weights import Centroids, Table, nearest, subspaces
from evolute.sw.checkpoints.quantized_file import write_arrays
from evolute.sw.language_model.model import LanguageModel, ModelConfig
from evolute.sw.quantizers.lut_dla import Tables, coded_tables, layers_by_input
from evolute.sw.tensors.activations import quantize_activations
from evolute.sw.tensors.stored import Tensor
from evolute.sw.tensors.tensor import QuantError, QuantTensor
from evolute.sw.training.torch_llama import Linears, forward, half_split, torch_weights

POINT_RATE = 0.3
"""Adam's greatest step of a centroid, in the integers that activations are."""

WEIGHT_RATE = 2e-3
"""Adam's greatest step of a weight."""

RECONSTRUCTION = 0.01
"""What the loss of every layer counts beside the divergence."""

FROZEN = 0.25
"""The part of the steps through which weights are frozen."""

WARM = 0.1
"""The part of a stage through which steps grow; then they shrink by a cosine, to zero."""

KEEP_EVERY = 25
"""Steps after which the state is kept."""


def require_trainable(model: LanguageModel) -> None:
    """Raise `QuantError` unless `model` is a plain Llama with a tied head, the only kind that can
    be trained."""
    needed = {
        field.name: getattr(model.config, field.name)
        for field in fields(ModelConfig)
        if field.name in _SIZES
    }
    llama = ModelConfig(**needed)
    if model.config != llama or llama.rope_pairs is None or "head" in model.tensors:
        raise QuantError(f"method: training knows only a Llama with a tied head, not {model.name}")


_SIZES = (
    *("hidden", "layers", "heads", "kv_heads", "head_dim", "ffn", "vocab", "context"),
    *("rope_theta", "norm_eps", "rope_pairs"),
)


@dataclass(frozen=True, eq=False)
class Trained:
    """The parameters that are trained, and what else the layers need, by names of layers.

    `points` are the centroids before rounding, float32 [subspaces, c, v], by the first of the
    layers that share an input. `weights` are float32 [N, K] and `rests` [subspaces * c, N]; rows of
    query and key weights are in the order of `half_split`.
    """

    choice: Tables
    config: ModelConfig
    shared: Mapping[str, tuple[str, ...]]
    points: Mapping[str, torch.Tensor]
    weights: Mapping[str, torch.Tensor]
    rests: Mapping[str, torch.Tensor]

    def group(self, first: str) -> int:
        return min(self.choice.group, self.weights[first].shape[1])

    def centroids(self, first: str) -> Centroids:
        """The centroids of an input, rounded as in an engine."""
        kind = self.choice.activations
        bound = kind.maximum
        rounded = self.points[first].detach().round().clamp(-bound, bound)
        points = rounded.numpy().astype(np.int64)
        return Centroids(self.weights[first].shape[1], kind, self.choice.metric, points)

    def tables(self, name: str, first: str) -> torch.Tensor:
        """Table entries before rounding, [subspaces * c, N]."""
        weight, points = self.weights[name], self.points[first]
        places = subspaces(
            np.arange(1, weight.shape[1] + 1)[None], self.group(first), points.shape[2]
        )
        columns = torch.from_numpy(places.reshape(-1) - 1)
        if (columns < 0).any():  # what fills a subspace up
            weight = F.pad(weight, (0, 1))
        pieces = weight[:, columns].T.view(*points.shape[::2], -1)
        return self.rests[name] + torch.bmm(points, pieces).flatten(0, 1)

    def rounded(self, tables: torch.Tensor, first: str) -> torch.Tensor:
        """Table entries rounded as in `coded_tables`. Gradients pass unchanged."""
        zero = WeightCodes(self.choice.bits, Kind.TABLE).levels // 2
        size = -(-self.group(first) // self.choice.v) * self.choice.centroids
        groups = []
        for entries in tables.split(size):
            with torch.no_grad():
                scale = (entries.abs().amax(0) / (zero - 1)).half().float()
                steps = torch.where(scale > 0, 1 / scale, 0)
                counted = (entries * steps).round().clamp(-zero, zero - 1) * scale
            groups.append(counted + (entries - entries.detach()))
        return torch.cat(groups)


def begin(model: LanguageModel, made: LanguageModel, choice: Tables) -> Trained:
    """The state at the start of training, from the original `model` and its tables `made` by
    `tabulated`."""
    shared, config = layers_by_input(model), model.config
    dense = torch_weights(model)
    points, weights, rests = {}, {}, {}
    for first, names in shared.items():
        tensor = made.tensors[first]
        assert isinstance(tensor, QuantTensor) and isinstance(tensor.form, Table)
        points[first] = torch.from_numpy(tensor.form.centroids.points.astype(np.float32))
        for name in names:
            tensor = made.tensors[name]
            assert isinstance(tensor, QuantTensor)
            order = half_split(config, name, tensor.shape[0])
            entries = tensor.rows(slice(None), np.float32)[order].T
            weights[name], rests[name] = dense[name], torch.from_numpy(entries.copy())
    start = Trained(choice, config, shared, points, weights, rests)
    products = {
        name: start.tables(name, first) - rests[name]
        for first, names in shared.items()
        for name in names
    }
    return replace(start, rests={name: rests[name] - products[name] for name in rests})


def linears(trained: Trained, losses: list[torch.Tensor]) -> Linears:
    """The layers, computed with their tables. Each layer's term of the loss is appended to
    `losses`."""

    def apply(names: Sequence[str], x: torch.Tensor) -> list[torch.Tensor]:
        first, flat = names[0], x.flatten(0, -2)
        centroids, group = trained.centroids(first), trained.group(first)
        a = quantize_activations(flat.detach().numpy(), centroids.activations)
        index = nearest(centroids.metric, subspaces(a.x, group, centroids.v), centroids.points)
        count = centroids.points.shape[1]
        entries = torch.from_numpy(index + count * np.arange(index.shape[1]))
        scale, outputs = torch.from_numpy(a.scale)[:, None], []
        for name in names:
            tables = trained.rounded(trained.tables(name, first), first)
            table_outputs = F.embedding_bag(entries, tables, mode="sum") * scale
            weight_outputs = F.linear(flat, trained.weights[name])
            fixed = weight_outputs.detach()
            size = fixed.square().mean().clamp_min(1e-30)
            losses.append(
                (
                    (table_outputs.detach() - weight_outputs).square().mean()
                    + (table_outputs - fixed).square().mean()
                )
                / size
            )
            outputs.append((table_outputs + (weight_outputs - fixed)).unflatten(0, x.shape[:-1]))
        return outputs

    return apply


def tables_in(trained: Trained, made: LanguageModel) -> LanguageModel:
    """`made` with the current tables, rounded as in an engine."""
    tensors: dict[str, Tensor] = dict(made.tensors)
    with torch.no_grad():
        for first, names in trained.shared.items():
            centroids = trained.centroids(first)
            for name in names:
                halves = trained.tables(name, first).T.numpy()
                tables = np.empty_like(halves)
                tables[half_split(trained.config, name, len(halves))] = halves
                tensors[name] = coded_tables(tables, centroids, trained.choice)
    return replace(made, tensors=tensors)


def window(parts: Sequence[Sequence[int]], prefix: int, seed: int, step: int) -> NDArray[np.int64]:
    """The token ids [1, length] of a step: the common prefix, then as many consecutive tokens as a
    window of `parts` has, from a random place in their text."""
    text = np.concatenate([part[prefix:] for part in parts])
    length = min(len(parts[0]) - prefix, len(text))
    start = int(np.random.default_rng((seed, step)).integers(len(text) - length + 1))
    return np.concatenate([parts[0][:prefix], text[start : start + length]])[None].astype(np.int64)


def _rate(step: int, steps: int) -> float:
    """The learning rate at a step of a stage, as a share of the greatest rate."""
    warm = min(1.0, (step + 1) / max(1.0, WARM * steps))
    return warm * 0.5 * (1 + math.cos(math.pi * step / steps))


@contextlib.contextmanager
def _reproducibly() -> Iterator[None]:
    """Use one thread in the block, so that the order of sums does not depend on the number of
    cores."""
    threads, exact = torch.get_num_threads(), torch.are_deterministic_algorithms_enabled()
    torch.set_num_threads(1)
    torch.use_deterministic_algorithms(True)
    try:
        yield
    finally:
        torch.set_num_threads(threads)
        torch.use_deterministic_algorithms(exact)


def _state(named: Mapping[str, torch.Tensor], adam: torch.optim.Adam) -> dict[str, torch.Tensor]:
    """Everything that a step changes, by name. A parameter that was not trained yet has no
    moments."""
    state = {}
    for name, tensor in named.items():
        state[name] = tensor.detach()
        state |= {f"{name}/{moment}": value for moment, value in adam.state[tensor].items()}
    return state


def _resume(path: Path, key: str, named: Mapping[str, torch.Tensor], adam: torch.optim.Adam) -> int:
    """Load the state at `path` if it is complete and belongs to this run. Returns the number of
    steps that are done."""
    try:
        with safetensors.safe_open(path, "numpy") as file:
            metadata = file.metadata() or {}
            if metadata.get("key") != key:
                return 0
            arrays = {name: file.get_tensor(name) for name in file.keys()}
            done = int(metadata["steps"])
    except (OSError, safetensors.SafetensorError, KeyError, ValueError):
        return 0
    with torch.no_grad():
        for name, tensor in named.items():
            tensor.copy_(torch.from_numpy(arrays[name]))
            state = {
                moment: torch.from_numpy(arrays[f"{name}/{moment}"])
                for moment in ("step", "exp_avg", "exp_avg_sq")
                if f"{name}/{moment}" in arrays
            }
            if state:
                adam.state[tensor] = state
    return done


def boosted(
    model: LanguageModel,
    made: LanguageModel,
    choice: Tables,
    parts: Sequence[Sequence[int]],
    path: Path,
    key: str,
    seed: int = 0,
    progress: Callable[[float], None] = lambda done: None,
) -> LanguageModel:
    """The tables `made` of `model`, trained for `choice.steps` steps on windows of tokens.

    The state is saved at `path` under `key`, and loaded from there if it exists. Raises
    `QuantError` for a model that is not a plain Llama, and `FileError`.
    """
    require_trainable(model)
    with _reproducibly():
        trained = begin(model, made, choice)
        points, weights = list(trained.points.values()), list(trained.weights.values())
        frozen = math.ceil(FROZEN * choice.steps)
        teacher = {**torch_weights(model)}
        adam = torch.optim.Adam([{"params": points}, {"params": weights}], betas=(0.9, 0.95))
        named = {f"points/{name}": tensor for name, tensor in trained.points.items()}
        named |= {f"weights/{name}": tensor for name, tensor in trained.weights.items()}
        done = _resume(path, key, named, adam)
        prefix = len(model.tokenizer.prefix)
        for step in range(done, choice.steps):
            stage, steps = (0, frozen) if step < frozen else (frozen, choice.steps - frozen)
            rate = _rate(step - stage, steps)
            for group, greatest_rate in zip(
                adam.param_groups, (POINT_RATE, WEIGHT_RATE), strict=True
            ):
                group["lr"] = greatest_rate * rate
            for parameter in points:
                parameter.requires_grad_()
            for parameter in weights:
                parameter.requires_grad_(step >= frozen)
            ids = torch.from_numpy(window(parts, prefix, seed, step))
            with torch.no_grad():
                teacher_logs = forward(model.config, teacher, ids).log_softmax(-1)
            losses: list[torch.Tensor] = []
            logits = forward(model.config, teacher, ids, linear=linears(trained, losses))
            divergence = F.kl_div(
                logits.log_softmax(-1).flatten(0, 1),
                teacher_logs.flatten(0, 1),
                log_target=True,
                reduction="batchmean",
            )
            (divergence + RECONSTRUCTION * torch.stack(losses).sum()).backward()
            adam.step()
            adam.zero_grad()
            if (step + 1) % KEEP_EVERY == 0 or step + 1 == choice.steps:
                arrays = {name: tensor.numpy() for name, tensor in _state(named, adam).items()}
                write_arrays(path, arrays, {"key": key, "steps": str(step + 1)})
            progress((step + 1) / choice.steps)
        return tables_in(trained, made)

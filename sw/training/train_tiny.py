"""How `evolute-tiny` is made: stories sampled from a 15 M teacher, a tokenizer, a 0.8 M Llama.

The teacher is stories15M of llama2.c, fetched as `sw.checkpoints.zoo` says. From the repository
root, with the extra `train` (PyTorch):

    python -m evolute.sw.training.train_tiny sample build/tiny
    python -m evolute.sw.training.train_tiny train build/tiny
    python -m evolute.sw.training.train_tiny export build/tiny sw/checkpoints/models/evolute-tiny

Each stage leaves its result in the working folder; `sample` continues where it was interrupted.
Every random number comes from a NumPy generator with a stated seed, so equal versions of the
libraries on an equal CPU give equal files.
"""

# PyTorch is no dependency of this package, so it may be absent where types are checked.
# pyright: reportMissingImports=false

from __future__ import annotations

import json
import sys
from collections.abc import Iterable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import click
import numpy as np
import safetensors.torch
import torch
from rich.progress import track
from tokenizers import AddedToken, Tokenizer, decoders, models, pre_tokenizers, processors, trainers

from evolute.support.errors import RefusedError
from evolute.support.files import FileError, replacing, write_text
from evolute.sw.checkpoints import zoo
from evolute.sw.checkpoints.checkpoint import open_model
from evolute.sw.checkpoints.hugging_face import BLOCKS, MODULES, OUTSIDE
from evolute.sw.language_model.model import ModelConfig
from evolute.sw.training.torch_llama import (
    PROGRESS,
    Weights,
    sample_texts,
    score,
    torch_weights,
    train_model,
)

TEACHER = "stories15m"
TINY = ModelConfig(
    hidden=128,
    layers=4,
    heads=4,
    kv_heads=2,
    head_dim=32,
    ffn=320,  # not a multiple of 128, so that ragged weight groups occur
    vocab=1024,
    context=512,
    rope_theta=10_000.0,
    norm_eps=1e-5,
    rope_pairs="halves",
)
STORY = "<|story|>"  # leads every story, id 0; texts in a file are separated by it
HELD_OUT_EVERY = 50  # every 50th story is never trained on
SHIPPED_STORIES = 40  # so many held-out stories travel with the model


@dataclass(frozen=True)
class Corpus:
    """Sampled stories, split by their position, so that the split does not change when more are
    sampled."""

    trained: list[str]
    held_out: list[str]


def read_corpus(folder: Path) -> Corpus:
    """The stories that `sample` wrote into a folder. Raises `FileError` if there are none."""
    texts = [
        text
        for path in sorted(folder.glob("stories-*.txt"))
        for text in path.read_text(encoding="utf-8").split(STORY)
    ]
    if not texts:
        raise FileError(f"{folder}: has no sampled stories, run the sample stage first")
    held_out = texts[::HELD_OUT_EVERY]
    return Corpus([text for number, text in enumerate(texts) if number % HELD_OUT_EVERY], held_out)


def train_tokenizer(texts: Iterable[str], vocab: int) -> Tokenizer:
    """A byte-level BPE tokenizer of `vocab` tokens, which puts `STORY` (id 0) before a text."""
    tokenizer = Tokenizer(models.BPE())
    # The library's stubs make these attributes read-only; they are not.
    tokenizer.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)  # pyright: ignore[reportAttributeAccessIssue]
    tokenizer.decoder = decoders.ByteLevel()  # pyright: ignore[reportAttributeAccessIssue]
    trainer = trainers.BpeTrainer(
        vocab_size=vocab,
        special_tokens=[AddedToken(STORY, special=True, normalized=False)],
        initial_alphabet=sorted(pre_tokenizers.ByteLevel.alphabet()),
        show_progress=False,
    )
    tokenizer.train_from_iterator(texts, trainer)
    tokenizer.post_processor = processors.TemplateProcessing(  # pyright: ignore[reportAttributeAccessIssue]
        single=f"{STORY} $A", special_tokens=[(STORY, 0)]
    )
    return tokenizer


def hugging_face_tensors(weights: Weights) -> dict[str, torch.Tensor]:
    """The weights in float16 under the names of a `LlamaForCausalLM`."""
    outside = {name: stored for stored, name in OUTSIDE.items()}
    within = {name: stored for stored, (name,) in MODULES.items()}
    tensors = {}
    for name, tensor in weights.items():
        layer, _, role = name.rpartition(".")
        stored = f"{BLOCKS}{layer}.{within[role]}" if layer else outside[role]
        tensors[f"{stored}.weight"] = tensor.half()
    return tensors


def hugging_face_config(config: ModelConfig) -> dict[str, Any]:
    """The `config.json` of a `LlamaForCausalLM` with tied embeddings."""
    return {
        "architectures": ["LlamaForCausalLM"],
        "model_type": "llama",
        "hidden_size": config.hidden,
        "num_hidden_layers": config.layers,
        "num_attention_heads": config.heads,
        "num_key_value_heads": config.kv_heads,
        "head_dim": config.head_dim,
        "intermediate_size": config.ffn,
        "vocab_size": config.vocab,
        "max_position_embeddings": config.context,
        "rope_theta": config.rope_theta,
        "rms_norm_eps": config.norm_eps,
        "hidden_act": "silu",
        "tie_word_embeddings": True,
        "attention_bias": False,
        "mlp_bias": False,
        "bos_token_id": 0,
        "eos_token_id": 0,
        "torch_dtype": "float16",
    }


folder_argument = click.argument("folder", type=click.Path(path_type=Path))


@click.group(context_settings={"help_option_names": ["-h", "--help"]})
def cli() -> None:
    """Make the embedded model: sample a corpus, train on it, export the result."""
    torch.set_num_threads(1)  # the order of sums, and so the result, depends on it


@cli.command(epilog="Example: python -m evolute.sw.training.train_tiny sample build/tiny")
@folder_argument
@click.option("--shards", default=20, show_default=True, help="Files, of about 20,000 tokens each.")
@click.option("--attempts", default=128, show_default=True, help="Stories begun for each file.")
@click.option("--seed", default=2, show_default=True)
def sample(folder: Path, shards: int, attempts: int, seed: int) -> None:
    """Sample stories from stories15M into FOLDER; skips the files already there.

    Stories that do not end within the teacher's 256 tokens are dropped.
    """
    teacher = zoo.load(TEACHER)
    (mark,) = teacher.tokenizer.prefix
    weights = {name: tensor.bfloat16() for name, tensor in torch_weights(teacher).items()}
    for shard in track(range(shards), "sampling", console=PROGRESS):
        path = folder / f"stories-{shard:03}.txt"
        if not path.exists():
            rng = np.random.default_rng([seed, shard])
            stories = sample_texts(teacher.config, weights, rng, attempts, mark)
            write_text(path, STORY.join(teacher.tokenizer.decode(ids).strip() for ids in stories))


@cli.command(epilog="Example: python -m evolute.sw.training.train_tiny train build/tiny")
@folder_argument
@click.option("--steps", default=5000, show_default=True)
@click.option("--batch", default=2, show_default=True, help="Windows of 512 tokens per step.")
@click.option("--seed", default=2, show_default=True)
def train(folder: Path, steps: int, batch: int, seed: int) -> None:
    """Train the tokenizer and the model on the stories in FOLDER."""
    texts = read_corpus(folder).trained
    tokenizer = train_tokenizer(texts, TINY.vocab)
    stories = [encoding.ids for encoding in tokenizer.encode_batch(texts)]
    weights = train_model(TINY, stories, np.random.default_rng(seed), steps, batch)
    record = {
        "stories": len(texts),
        "characters": sum(map(len, texts)),
        "tokens": sum(map(len, stories)),
        "steps": steps,
        "tokens_per_step": batch * TINY.context,
        "seed": seed,
        "torch": str(torch.__version__),
    }
    write_text(folder / "tokenizer.json", tokenizer.to_str() + "\n")
    with replacing(folder / "weights.safetensors") as temporary:
        safetensors.torch.save_file(dict(weights), temporary)
    write_text(folder / "training.json", json.dumps(record, indent=2) + "\n")
    click.echo(json.dumps(record, indent=2))


@cli.command(
    epilog="Example: python -m evolute.sw.training.train_tiny export build/tiny build/evolute-tiny"
)
@folder_argument
@click.argument("destination", type=click.Path(path_type=Path))
def export(folder: Path, destination: Path) -> None:
    """Write what was trained in FOLDER as a model folder, and score it on the held-out stories."""
    try:
        trained = safetensors.torch.load_file(folder / "weights.safetensors")
        tokenizer = (folder / "tokenizer.json").read_text(encoding="utf-8")
        record = json.loads((folder / "training.json").read_text(encoding="utf-8"))
    except FileNotFoundError:
        raise FileError(f"{folder}: has no trained model, run the train stage first") from None
    held_out = read_corpus(folder).held_out
    with replacing(destination / "model.safetensors") as temporary:
        tensors = hugging_face_tensors(trained)
        safetensors.torch.save_file(tensors, temporary, metadata={"format": "pt"})
    write_text(destination / "config.json", json.dumps(hugging_face_config(TINY), indent=2) + "\n")
    write_text(destination / "tokenizer.json", tokenizer)
    write_text(destination / "heldout.txt", STORY.join(held_out[:SHIPPED_STORIES]))
    result = score(open_model(destination), held_out)
    teacher = score(zoo.load(TEACHER), held_out)
    record["held_out"] = {
        "stories": len(held_out),
        "characters": result.characters,
        "tokens": result.tokens,
        "perplexity": round(result.perplexity, 4),
        "bits_per_character": round(result.bits_per_character, 4),
        "teacher_bits_per_character": round(teacher.bits_per_character, 4),
    }
    write_text(destination / "training.json", json.dumps(record, indent=2) + "\n")
    click.echo(json.dumps(record, indent=2))


if __name__ == "__main__":
    try:
        cli()
    except RefusedError as error:
        click.echo(f"train_tiny: {error}", err=True)
        sys.exit(2)

"""The shape of a model, for pricing, from its configuration."""

from __future__ import annotations

from evolute.sim.workload.shape import Attention, Block, FeedForward, ModelShape
from evolute.sw.language_model.model import LanguageModel, ModelConfig


def shape_of(name: str, family: str, config: ModelConfig, *, tied: bool) -> ModelShape:
    """The blocks, heads and widths that `config` states. `tied` says that the output head shares
    the embedding's weights."""
    feed_forward = FeedForward(
        width=config.ffn,
        gated=config.gated,
        activation=config.activation,
        biases=tuple(role for role in ("gate", "up", "down") if role in config.biases),
    )

    def block(*, is_local: bool) -> Block:
        attention = Attention(
            heads=config.heads,
            key_heads=config.kv_heads,
            value_heads=config.kv_heads,
            key_dim=config.head_dim,
            value_dim=config.head_dim,
            rotary=config.rope_pairs is not None,
            window=config.window if is_local else None,
            biases=tuple(role for role in ("q", "k", "v", "o") if role in config.biases),
        )
        return Block(mixer=attention, feed_forward=feed_forward, norms=config.norms)

    everywhere, near = block(is_local=False), block(is_local=True)
    locals_ = frozenset(config.local_layers)
    return ModelShape(
        name=name,
        family=family,
        hidden=config.hidden,
        vocab=config.vocab,
        context=config.context,
        tied=tied,
        blocks=tuple(near if layer in locals_ else everywhere for layer in range(config.layers)),
        norm=config.norm,
        learned_positions=0 if config.rope_pairs else config.context,
    )


def model_shape(model: LanguageModel) -> ModelShape:
    """The shape of a loaded model."""
    tied = "head" not in model.tensors
    return shape_of(model.name, "checkpoint", model.config, tied=tied)

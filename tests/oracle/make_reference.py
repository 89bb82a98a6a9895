"""Writes what Hugging Face transformers computes for the models that our forward pass is tested on.

Shares no code with this project. Needs the `oracle` extra, and `gguf` to read the GGUF file:

    python tests/oracle/make_reference.py evolute-tiny=sw/checkpoints/models/evolute-tiny \\
        smollm2-135m=SmolLM2-135M-Instruct.Q4_1.gguf
"""

from __future__ import annotations

import hashlib
import json
import sys
from pathlib import Path

OUTPUT = Path(__file__).parents[1] / "data" / "transformers.json"
PROMPTS = (
    "Once upon a time, there was a little",
    "The capital of France is",
    "It's 1984:  naïve café №7 \n\n\tsaid “hello” 😀.",
)
GREEDY_TOKENS = 24
TOP = 8
PASSAGE = (
    "One day, Lily and her mom went to the park. They saw a big red ball under a tree. "
    "Lily wanted to play with it, but the ball was not hers. A boy came and said it was his. "
    "They played together all day, and when the sun went down they were very good friends."
)


def reference(path: Path) -> dict:
    """Token ids, greedy continuations, top logits and the loss of a passage, by transformers."""
    import torch
    import transformers

    torch.manual_seed(0)
    transformers.logging.set_verbosity_error()
    if path.is_dir():
        source, extra, weights = path, {}, path / "model.safetensors"
    else:
        source, extra, weights = path.parent, {"gguf_file": path.name}, path
    tokenizer = transformers.AutoTokenizer.from_pretrained(source, **extra)
    model = transformers.AutoModelForCausalLM.from_pretrained(
        source, dtype=torch.float32, attn_implementation="eager", **extra
    ).eval()

    def logits(ids: list[int]) -> torch.Tensor:
        with torch.no_grad():
            return model(torch.tensor([ids])).logits[0].double()

    cases = []
    for prompt in PROMPTS:
        ids = tokenizer(prompt)["input_ids"]
        last = logits(ids)[-1]
        top = torch.topk(last, TOP)
        greedy = list(ids)
        for _ in range(GREEDY_TOKENS):
            greedy.append(int(logits(greedy)[-1].argmax()))
        cases.append(
            {
                "prompt": prompt,
                "ids": ids,
                "top_tokens": top.indices.tolist(),
                "top_logits": [round(value, 6) for value in top.values.tolist()],
                "greedy": greedy[len(ids) :],
                "text": tokenizer.decode(greedy[len(ids) :], skip_special_tokens=True),
            }
        )
    passage = tokenizer(PASSAGE)["input_ids"]
    loss = torch.nn.functional.cross_entropy(logits(passage)[:-1], torch.tensor(passage[1:]))
    return {
        "sha256": hashlib.sha256(weights.read_bytes()).hexdigest(),
        "tools": {"transformers": transformers.__version__, "torch": torch.__version__},
        "cases": cases,
        "passage": {"text": PASSAGE, "ids": passage, "loss": float(loss)},
    }


def main() -> None:
    known = json.loads(OUTPUT.read_text()) if OUTPUT.exists() else {}
    for argument in sys.argv[1:]:
        name, _, path = argument.partition("=")
        known[name] = reference(Path(path))
    OUTPUT.parent.mkdir(exist_ok=True)
    OUTPUT.write_text(json.dumps(known, indent=1, ensure_ascii=False) + "\n", encoding="utf-8")


if __name__ == "__main__":
    main()

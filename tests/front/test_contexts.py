"""The page of cores by context is what the models say."""

from __future__ import annotations

import importlib.util
from pathlib import Path

DOCS = Path(__file__).parents[2] / "docs"


def test_the_table_of_a_model_is_what_the_models_say() -> None:
    spec = importlib.util.spec_from_file_location("contexts", DOCS / "contexts.py")
    assert spec is not None and spec.loader is not None
    contexts = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(contexts)
    page = (DOCS / "contexts.md").read_text(encoding="utf-8")
    for model, cores in contexts.speeds(("smollm2-360m", "llama-3.2-1b")).items():
        assert contexts.table(model, cores) in page, "make docs writes it anew"

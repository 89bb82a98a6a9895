"""Published figures, computed anew."""

from __future__ import annotations

from pathlib import Path

from evolute.sim.what_if.claims import claims, page

PAGE = Path(__file__).parents[3] / "docs" / "claims.md"


def test_claims_agree_with_what_was_published() -> None:
    """All but the number of models whose entries say that their parameters are uncertain."""
    others = [claim.what for claim in claims() if not claim.agrees]
    assert others == ["models of the zoo whose published number of parameters is met"]


def test_the_page_is_what_the_models_say() -> None:
    assert PAGE.read_text(encoding="utf-8") == page(), "make docs writes it anew"

"""What all tests share."""

from __future__ import annotations

import pytest
from hypothesis import settings

settings.register_profile("shared", deadline=None)  # machines that run tests have other work, too
settings.load_profile("shared")

pytest.register_assert_rewrite("verif.contract")


def pytest_collection_modifyitems(config: pytest.Config, items: list[pytest.Item]) -> None:
    """Leave the nightly form out unless `-m` asks for it."""
    if config.option.markexpr:
        return
    nightly = pytest.mark.skip(reason="nightly; run with -m slow")
    for item in items:
        if item.get_closest_marker("slow"):
            item.add_marker(nightly)

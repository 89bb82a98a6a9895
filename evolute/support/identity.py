"""Digests that identify a cached result by the facts that determine it.

Facts are digests of specs, models and texts, versions of tools, and the revisions that each model
of this package states in a module `revisions`. The bytes of source files are never included, so a
comment changes nothing, and neither does the checkout from which a command runs.
"""

from __future__ import annotations

import hashlib
import json
from typing import Any


def digest(facts: Any) -> str:
    """64 hexadecimal digits that are equal exactly for equal facts, which must be
    JSON-serializable."""
    return hashlib.sha256(json.dumps(facts, sort_keys=True).encode()).hexdigest()

"""What a kept result is tied to: a digest of the facts that determine it.

Facts are digests of specs, models and texts, versions of tools, and the revisions that each model
of this package states in a module `revisions`. The bytes of source files are never among them, so
that a comment, or the checkout that a command runs from, changes nothing.
"""

from __future__ import annotations

import hashlib
import json
from typing import Any


def digest(facts: Any) -> str:
    """64 hex digits that are equal exactly for equal facts, which must be JSON-serializable."""
    return hashlib.sha256(json.dumps(facts, sort_keys=True).encode()).hexdigest()

"""Options with which every command names an accelerator."""

from __future__ import annotations

import click

from evolute.hw.spec import Spec
from evolute.hw.spec.presets import preset

set_option = click.option(
    "--set",
    "assignments",
    multiple=True,
    metavar="FIELD=VALUE",
    help="Change a field of the preset; may be repeated.",
)


def spec_from(name: str, assignments: tuple[str, ...]) -> Spec:
    """The preset `name` with `field=value` changes applied."""
    return preset(name).spec.evolve_text(assignments)

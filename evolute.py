"""The front door: one `evolute` command that joins the folders' commands.

Exit codes: 0 done, 1 a check found a difference, 2 the request was refused, 130 interrupted.
"""

from __future__ import annotations

import importlib
import sys

import click

from hw.spec.base import RefusedError

# Where each command lives. A folder's libraries are imported only when its command runs.
COMMANDS = {
    "accels": "hw.cli",
    "sim": "sw.sim_cli",
    "models": "sw.cli",
    "quantize": "sw.quantize_cli",
    "eval": "sw.cli",
    "run": "verif.run_cli",
    "compile": "sw.compile_cli",
    "convert": "sw.convert_cli",
    "dse": "dse.cli",
    "compare": "dse.compare_cli",
    "report": "reports.cli",
    "verify": "verif.cli",
    "mutants": "verif.mutants_cli",
    "export": "hw.build_cli",
    "synth": "hw.build_cli",
}


class Front(click.Group):
    """Loads `COMMANDS` on demand, and turns a refusal into one line."""

    def list_commands(self, ctx: click.Context) -> list[str]:
        return list(COMMANDS)

    def get_command(self, ctx: click.Context, cmd_name: str) -> click.Command | None:
        if cmd_name not in COMMANDS:
            return None
        return getattr(importlib.import_module(COMMANDS[cmd_name]), cmd_name)


@click.group(cls=Front, context_settings={"help_option_names": ["-h", "--help"]})
@click.version_option(package_name="evolute")
def cli() -> None:
    """Design, verify and price accelerators for low-bit language models."""


def main() -> None:
    """Run the command line; never shows a traceback for a refused request."""
    try:
        sys.exit(cli.main(standalone_mode=False) or 0)
    except click.ClickException as error:
        error.show()
        sys.exit(2)
    except RefusedError as error:
        click.echo(f"evolute: {error}", err=True)
        sys.exit(2)
    except (click.Abort, KeyboardInterrupt):
        click.echo("evolute: interrupted", err=True)
        sys.exit(130)


if __name__ == "__main__":
    main()

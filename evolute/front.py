"""The front door: one `evolute` command that joins the folders' commands.

Exit codes: 0 done, 1 a check found a difference, 2 the request was refused, 130 interrupted.
"""

from __future__ import annotations

import ast
import importlib
import importlib.util
import sys
from pathlib import Path

import click

from evolute.support.errors import RefusedError, UnknownNameError, near_names

# Where each command lives. A folder's libraries are imported only when its command runs.
COMMANDS = {
    "accels": "evolute.hw.commands.accels",
    "sim": "evolute.sw.commands.sim",
    "require": "evolute.sw.commands.require",
    "models": "evolute.sw.commands.models",
    "quantize": "evolute.sw.commands.quantize",
    "eval": "evolute.sw.commands.eval",
    "run": "evolute.verif.commands.run",
    "compile": "evolute.sw.commands.compile",
    "convert": "evolute.sw.commands.convert",
    "dse": "evolute.dse.commands.search",
    "compare": "evolute.dse.commands.compare",
    "report": "evolute.reports.commands.report",
    "verify": "evolute.verif.commands.verify",
    "mutants": "evolute.verif.commands.mutants",
    "export": "evolute.hw.commands.build",
    "synth": "evolute.verif.commands.synth",
}


class Front(click.Group):
    """Loads `COMMANDS` on demand, and turns a refusal into one line."""

    def list_commands(self, ctx: click.Context) -> list[str]:
        return list(COMMANDS)

    def get_command(self, ctx: click.Context, cmd_name: str) -> click.Command | None:
        if cmd_name not in COMMANDS:
            raise UnknownNameError("command", cmd_name, list(COMMANDS))
        return getattr(importlib.import_module(COMMANDS[cmd_name]), cmd_name)

    def format_commands(self, ctx: click.Context, formatter: click.HelpFormatter) -> None:
        """List the commands without importing one of them, which takes seconds for all."""
        with formatter.section("Commands"):
            formatter.write_dl([(name, summary(name)) for name in COMMANDS])


def summary(command: str) -> str:
    """The first sentence of a command's docstring, from the source, which is not run."""
    module = importlib.util.find_spec(COMMANDS[command])
    assert module is not None and module.origin is not None
    for node in ast.parse(Path(module.origin).read_text(encoding="utf-8")).body:
        if isinstance(node, ast.FunctionDef) and node.name == command:
            text = (ast.get_docstring(node) or "").partition("\n\n")[0]
            return " ".join(text.partition(". ")[0].split()).removesuffix(".") + "."
    raise LookupError(f"{COMMANDS[command]} has no {command}")


@click.group(cls=Front, context_settings={"help_option_names": ["-h", "--help"]})
@click.version_option(package_name="evolute")
def cli() -> None:
    """Design, verify and price accelerators for low-bit language models."""


def main() -> None:
    """Run the command line; never shows a traceback for a refused request."""
    try:
        sys.exit(cli.main(prog_name="evolute", standalone_mode=False) or 0)
    except click.ClickException as error:
        click.echo(f"evolute: {_one_line(error)}", err=True)
        sys.exit(2)
    except RefusedError as error:
        click.echo(f"evolute: {error}", err=True)
        sys.exit(2)
    except (click.Abort, KeyboardInterrupt):
        click.echo("evolute: interrupted", err=True)
        sys.exit(130)


def _one_line(error: click.ClickException) -> str:
    """What was wrong with a command line, the option first."""
    message = " ".join(error.format_message().split())
    if isinstance(error, click.NoSuchOption):  # whose own suggestions count the dashes as alike
        options = [option.lstrip("-") for option in error.possibilities or ()]
        near = near_names(error.option_name.lstrip("-"), options)
        hint = f"; did you mean --{' or --'.join(near)}?" if near else ""
        message = f"no option {error.option_name}{hint}"
    if isinstance(error, click.BadParameter) and error.param is not None and error.message:
        option = max(error.param.opts, key=len)
        message = f"{option if option.startswith('-') else error.param.name}: {error.message}"
    if isinstance(error, click.UsageError) and error.ctx is not None:
        message = f"{message.removesuffix('.')}; see {error.ctx.command_path} --help"
    return message


if __name__ == "__main__":
    main()

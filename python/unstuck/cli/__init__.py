"""The command line: ``unstuck race`` and its sisters.

Each command is a module of this package named in ``COMMANDS``, with a function ``register`` that
adds it to the application. Nothing heavy is imported before a command runs.
"""

from __future__ import annotations

import importlib
import sys
from typing import TYPE_CHECKING

from unstuck._extras import MissingExtraError, require

if TYPE_CHECKING:
    import typer

COMMANDS = ("race", "minimize", "learn", "reproduce")


def build_app() -> typer.Typer:
    """Assemble the application from the modules named in ``COMMANDS``.

    Raises
    ------
    MissingExtraError
        When typer or rich is not installed.
    """
    for package in ("typer", "rich"):
        require(package, extra="cli", purpose="the unstuck command")
    import typer

    app = typer.Typer(
        name="unstuck",
        help="Optimizers for PyTorch that do not stay stuck.",
        no_args_is_help=True,
        add_completion=False,
        pretty_exceptions_enable=False,
    )
    app.callback()(_root)
    for name in COMMANDS:
        importlib.import_module(f"unstuck.cli.{name}").register(app)
    return app


def main() -> None:
    """Run the command line; a missing extra ends in the install command, not a traceback."""
    try:
        build_app()()
    except MissingExtraError as error:
        print(f"unstuck: {error}", file=sys.stderr)
        raise SystemExit(1) from None


def _root() -> None:
    """Optimizers for PyTorch that do not stay stuck."""

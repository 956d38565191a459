"""What the commands share: reading an option, a device, a place for a picture."""

from __future__ import annotations

import os
from collections.abc import Callable
from pathlib import Path
from typing import TypeVar

import torch
import typer

INTERRUPTED = 130  # what a shell reports for a command stopped by Ctrl-C
FORMATS = (".png", ".pdf", ".svg")

T = TypeVar("T")
U = TypeVar("U")


def read_option(name: str, read: Callable[[U], T], value: U) -> T:
    """Read an option, turning what is wrong with its value into a usage error."""
    try:
        return read(value)
    except ValueError as error:
        raise typer.BadParameter(str(error), param_hint=name) from error


def read_device(name: str) -> torch.device:
    """Return a device that works."""
    try:
        found = torch.device(name)
        torch.zeros(1, device=found).item()
    except (RuntimeError, AssertionError) as error:
        reason = str(error).partition("\n")[0]
        raise ValueError(f"{name!r} cannot be used: {reason}") from error
    return found


def writable(path: Path) -> Path:
    """Check before the work that its picture can be written, and make its folder."""
    path = path if path.suffix else path.with_suffix(".png")
    if path.suffix not in FORMATS:
        raise ValueError(f"{path} must end in one of {', '.join(FORMATS)}")
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
    except OSError as error:
        raise ValueError(f"cannot make the folder {path.parent}: {error.strerror}") from error
    if path.is_dir() or not os.access(path.parent, os.W_OK):
        raise ValueError(f"cannot write {path}")
    return path

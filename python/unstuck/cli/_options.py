"""What the commands share: options, places for results and pictures, runs that can be stopped."""

from __future__ import annotations

import os
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, TypeVar

import torch
import typer
from rich.console import Console
from rich.markdown import Markdown

if TYPE_CHECKING:
    from matplotlib.figure import Figure

INTERRUPTED = 130  # what a shell reports for a command stopped by Ctrl-C
FORMATS = (".png", ".pdf", ".svg")

Threads = Annotated[int, typer.Option(min=1, help="CPU threads; results are made with 1.")]

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


def writable_json(path: Path) -> Path:
    """Check before the study that its results can be written, and make their folder."""
    path = path if path.suffix else path.with_suffix(".json")
    if path.suffix != ".json":
        raise ValueError(f"{path} must end in .json; tables and pictures go beside it")
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        path.parent.joinpath(path.name + ".part").touch()
        path.parent.joinpath(path.name + ".part").unlink()
    except OSError as error:
        raise ValueError(f"cannot write {path}: {error.strerror}") from error
    return path


def names_of(text: str) -> tuple[str, ...]:
    """Split at commas."""
    return tuple(part.strip() for part in text.split(","))


@contextmanager
def running(console: Console, threads: int, target: Path) -> Iterator[None]:
    """Set the threads meanwhile; after Ctrl-C say how to go on."""
    before = torch.get_num_threads()
    torch.set_num_threads(threads)
    try:
        yield
    except KeyboardInterrupt:
        console.print(f"Stopped; the same command goes on from {target}.", soft_wrap=True)
        raise typer.Exit(INTERRUPTED) from None
    finally:
        torch.set_num_threads(before)


def write_pictures(
    console: Console, target: Path, figures: Mapping[str, Figure], *, dpi: int = 90
) -> None:
    """Write each figure beside the results, as NAME-KEY.png, and say where."""
    for key, figure in figures.items():
        picture = target.with_name(f"{target.stem}-{key}.png")
        figure.savefig(picture, dpi=dpi)
        console.print(f"Picture: {picture}", highlight=False, soft_wrap=True)


def write_tables(console: Console, target: Path, text: str) -> None:
    """Write tables in markdown beside the results, and show them."""
    table = target.with_suffix(".md")
    table.write_text(text)
    console.print(Markdown(text))
    console.print(f"Tables: {table}\nAll results: {target}", highlight=False, soft_wrap=True)

"""Look a name up in a table of known things, with an error that lists them."""

from __future__ import annotations

from collections.abc import Mapping
from typing import TypeVar

T = TypeVar("T")


def lookup(known: Mapping[str, T], name: str, kind: str) -> T:
    """Return ``known[name]``, or raise a ``ValueError`` that lists the known names.

    Parameters
    ----------
    known : mapping of str
        The table.
    name : str
        The key to look up.
    kind : str
        What the table holds, for the error message.

    Raises
    ------
    ValueError
        For an unknown `name`.

    Examples
    --------
    >>> lookup({"adam": 1}, "adma", "optimizer")
    Traceback (most recent call last):
    ...
    ValueError: unknown optimizer 'adma': known are adam
    """
    if name not in known:
        raise ValueError(f"unknown {kind} {name!r}: known are {', '.join(sorted(known))}")
    return known[name]

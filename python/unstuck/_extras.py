"""Optional dependencies: import one, or say which command installs it."""

from __future__ import annotations

import importlib
from types import ModuleType


class MissingExtraError(ImportError):
    """An optional dependency is not installed; the message holds the command that adds it."""


def require(module: str, extra: str, purpose: str) -> ModuleType:
    """Import an optional dependency, or raise with the install command.

    Parameters
    ----------
    module : str
        Dotted name of the module, e.g. ``"sklearn.datasets"``.
    extra : str
        The extra of this package that brings it, e.g. ``"cli"``.
    purpose : str
        What needs it, as the subject of the error message.

    Returns
    -------
    types.ModuleType
        The imported module.

    Raises
    ------
    MissingExtraError
        When the package is not installed. An import error from inside an installed package is
        another fault and is raised as it is.

    Examples
    --------
    >>> require("json", extra="cli", purpose="this example").dumps([1])
    '[1]'
    """
    try:
        return importlib.import_module(module)
    except ModuleNotFoundError as error:
        package = module.partition(".")[0]
        if error.name is None or error.name.partition(".")[0] != package:
            raise
        raise MissingExtraError(
            f'{purpose} needs the package "{package}", which is not installed: '
            f'pip install "unstuck[{extra}]"',
            name=package,
        ) from error

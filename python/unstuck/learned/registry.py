"""The rules by name, and how one comes back from a file."""

from __future__ import annotations

import os
from pathlib import Path

import torch

from unstuck.learned import _file
from unstuck.learned.feature_mlp import FeatureMLP
from unstuck.learned.lstm import LSTM
from unstuck.learned.mlp import MLP
from unstuck.learned.preconditioner import Preconditioner
from unstuck.learned.rule import UpdateRule
from unstuck.learned.transformer import Transformer
from unstuck.learned.whitened_mlp import WhitenedMLP

__all__ = ["DEFAULT", "RULES", "load", "pretrained"]

RULES: dict[str, type[UpdateRule]] = {
    rule.name: rule for rule in (MLP, WhitenedMLP, FeatureMLP, LSTM, Transformer, Preconditioner)
}

WEIGHTS = Path(__file__).parent / "weights"

DEFAULT = "whitened-v1"
"""The rule of :class:`unstuck.optim.Learned` where none is named."""


def pretrained() -> list[str]:
    """Return the names of the rules whose weights come with the package.

    Examples
    --------
    >>> from unstuck.learned import load, pretrained
    >>> pretrained()
    ['mlp-v1', 'whitened-v1']
    """
    return sorted(path.stem for path in WEIGHTS.glob("*.safetensors"))


def load(name_or_path: str | os.PathLike[str]) -> UpdateRule:
    """Return a rule that comes with the package, or one from a file of :meth:`UpdateRule.save`.

    Nothing in the file is executed.

    Parameters
    ----------
    name_or_path : str or path
        A name of :func:`pretrained`, or a path. A text with a separator or the ending
        ``.safetensors`` is a path.

    Raises
    ------
    ValueError
        For an unknown name, and for a file that is damaged, no rule, or of a rule whose
        configuration or weights do not fit its class. The text says what is wrong.
    FileNotFoundError
        When there is no such file.

    Examples
    --------
    >>> import tempfile, pathlib
    >>> from unstuck.learned import MLP, load
    >>> with tempfile.TemporaryDirectory() as folder:
    ...     MLP(hidden=4).save(pathlib.Path(folder, "mine.safetensors"))
    ...     load(pathlib.Path(folder, "mine.safetensors")).config()["hidden"]
    4
    """
    text = os.fspath(name_or_path)
    is_path = not isinstance(name_or_path, str) or os.sep in text or text.endswith(".safetensors")
    if not is_path and text not in pretrained():
        known = ", ".join(pretrained()) or "none"
        raise ValueError(
            f"no rule named {text!r} comes with the package (there are: {known}); pass one of "
            "these, or the path of a .safetensors file"
        )
    path = Path(text) if is_path else WEIGHTS / f"{text}.safetensors"
    tensors, about = _file.read(path)
    name, config = about.get("rule"), about.get("config")
    if not isinstance(name, str) or name not in RULES or not isinstance(config, dict):
        raise ValueError(
            f"{str(path)!r} holds no update rule: its metadata name the rule {name!r} with the "
            f"configuration {config!r}; known rules are {', '.join(RULES)}"
        )
    try:
        rule = RULES[name](**config)
    except (TypeError, ValueError) as error:
        raise ValueError(f"{str(path)!r}: the configuration does not fit: {error}") from None
    try:
        rule.load_state_dict(tensors)
    except RuntimeError as error:
        raise ValueError(f"{str(path)!r}: the weights do not fit: {error}") from None
    for key, value in rule.state_dict().items():
        if not bool(torch.isfinite(value).all()):
            raise ValueError(f"{str(path)!r}: {key} has values that are not finite")
    return rule

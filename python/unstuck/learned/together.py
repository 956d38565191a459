"""One step of many students, each by meta-parameters of its own."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import torch
from torch import Tensor
from torch.func import functional_call

from unstuck.learned import _whitening
from unstuck.learned.mlp import MLP, shape_inputs
from unstuck.learned.rule import State, UpdateRule
from unstuck.learned.whitened_mlp import WhitenedMLP
from unstuck.ops import learned

__all__ = ["step_students_"]


def step_students_(
    rule: UpdateRule,
    thetas: Tensor,
    points: Tensor,
    gradients: Tensor,
    state: State,
    shapes: Sequence[torch.Size],
    *,
    lr: float = 1.0,
    num_steps: int | None = None,
) -> None:
    """Step K students in place: natively where there is a kernel, by the torch form elsewhere.

    Parameters
    ----------
    rule : UpdateRule
        The rule; its own parameters are not read.
    thetas : Tensor
        ``[K, M]``, rows as ``torch.nn.utils.parameters_to_vector(rule.parameters())`` has them.
    points, gradients : Tensor
        ``[K, P]``; the former is written.
    state : dict of str to list of Tensor
        ``torch.vmap(rule.init_state)`` of the parameters ``[K, *shape]``; written.
    shapes : sequence of torch.Size
        Of one student's parameters, in the order in which they lie in a point.
    lr, num_steps
        As for :class:`UpdateRule`.

    Raises
    ------
    ValueError, TypeError
        When something does not fit.

    Examples
    --------
    >>> import torch
    >>> from unstuck.learned import MLP
    >>> from unstuck.learned.together import step_students_
    >>> rule, shapes = MLP(), [torch.Size([3, 2]), torch.Size([3])]
    >>> w = [torch.zeros(4, *shape) for shape in shapes]
    >>> state = torch.vmap(rule.init_state)(w)
    >>> points, gradients = torch.zeros(4, 9), torch.ones(4, 9)
    >>> theta = torch.nn.utils.parameters_to_vector(rule.parameters()).detach()
    >>> step_students_(rule, theta.repeat(4, 1), points, gradients, state, shapes)
    >>> points[0, :2]
    tensor([-0.0010, -0.0010])
    """
    sizes = [shape.numel() for shape in shapes]
    tensors = [points, gradients, thetas, *(x for column in state.values() for x in column)]
    native = (
        type(rule) in (MLP, WhitenedMLP)
        and learned.native_ready(points.device)
        and all(x.dtype == torch.float32 and x.is_contiguous() for x in tensors)
    )
    if native:
        assert isinstance(rule, MLP)
        if isinstance(rule, WhitenedMLP):
            parts = _split(gradients, sizes, shapes)
            among = _whitening.entries(state, shapes, native=points.device.type == "cpu")
            parts = _whitening.whiten_(parts, among, rule.power)
            gradients = torch.cat([x.reshape(len(points), -1) for x in parts], 1)
        learned.students_step(
            points.detach(),
            gradients.detach(),
            state,
            sizes,
            [shape_inputs(shape) for shape in shapes],
            learned.Net(thetas.detach(), rule.hidden, rule.control),
            lr,
            num_steps,
        )
        return

    def one(theta: Tensor, p: list[Tensor], g: list[Tensor], s: State) -> Any:
        return functional_call(
            rule, _named(rule, theta), (p, g, s), dict(lr=lr, num_steps=num_steps)
        )

    with torch.no_grad():
        moved, after = torch.vmap(one)(
            thetas, _split(points, sizes, shapes), _split(gradients, sizes, shapes), state
        )
        points.copy_(
            torch.cat([x.reshape(points.shape[0], n) for x, n in zip(moved, sizes, strict=True)], 1)
        )
        for key, column in after.items():
            for x, y in zip(state[key], column, strict=True):
                x.copy_(y)


def _split(x: Tensor, sizes: list[int], shapes: Sequence[torch.Size]) -> list[Tensor]:
    """Return vectors [K, P] as tensors [K, *shape]."""
    parts = torch.split(x, sizes, -1)
    return [part.reshape(len(x), *shape) for part, shape in zip(parts, shapes, strict=True)]


def _named(rule: UpdateRule, theta: Tensor) -> dict[str, Tensor]:
    """Return one student's vector [M] as tensors by name."""
    params = dict(rule.named_parameters())
    parts = torch.split(theta, [p.numel() for p in params.values()])
    return {k: x.reshape(p.shape) for (k, p), x in zip(params.items(), parts, strict=True)}

"""The steps of learned update rules, by native kernels.

The torch forms are the rules themselves, in :mod:`unstuck.learned`: whoever calls this asks
:func:`native_ready` first.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any, NamedTuple

import torch
from torch import Tensor

from unstuck.ops import _native
from unstuck.ops._blend_now import native_ready

__all__ = [
    "Group",
    "LstmNet",
    "Matrix",
    "Net",
    "Plan",
    "lstm_plan_for",
    "native_ready",
    "plan_for",
    "run",
    "students_step",
    "whiten",
    "whitened_plan_for",
]

Plan = Any  # LearnedPlan, WhitenedPlan or LstmPlan of unstuck._C or unstuck._cuda
STATE = ("exp_avg", "exp_avg_slow", "exp_avg_sq", "stats", "step")
WHITENED_STATE = (*STATE[:-1], "rows", "rows_root", "columns", "columns_root", "step")
LSTM_STATE = ("exp_avg", "exp_avg_sq", "hidden", "cell", "step")
Traits = tuple[float, ...]


class Group(NamedTuple):
    """What one parameter group sets for a step. The fields are those that the kernels read.

    `lr` is a number, or a tensor of one number on the parameters' device; `num_steps` None where
    unknown.
    """

    lr: float | Tensor = 1.0
    weight_decay: float = 0.0
    num_steps: float | None = None
    maximize: bool = False


class Net(NamedTuple):
    """The weights of an MLP rule: all in one float32 vector ``[M]``, and the widths."""

    theta: Tensor
    hidden: int
    control: int


class LstmNet(NamedTuple):
    """The weights of an LSTM rule, as :class:`Net`, and what it is made of.

    `features` is 0, 1 or 2 for ``"gradient"``, ``"log"`` and ``"rich"``.
    """

    theta: Tensor
    features: int
    nominal: bool
    scale: float


class Matrix(NamedTuple):
    """A gradient that is whitened as a matrix, contiguous float32 on the CPU.

    With S students, `gradient` is ``[S, r * c]``, its rows as far apart as they may be.
    """

    gradient: Tensor
    out: Tensor | None  # like the gradient; written. None: the means look only
    rows: Tensor | None  # [S, r, r], the mean of G G^T; written. None: this side is left as it is
    rows_root: Tensor | None  # a power of it, symmetric
    columns: Tensor | None  # [S, c, c], of G^T G; written
    columns_root: Tensor | None
    weight: float  # of this gradient in the means, 0 to 1; 0 leaves them alone
    shape: tuple[int, int, int]  # S, r, c


def _module(device: torch.device) -> Any:
    """Return the native module for a device, or raise."""
    module = _native.module_for(device)
    if module is None:
        raise RuntimeError(_native.missing_for(device))
    return module


def lstm_plan_for(
    device: torch.device,
    params: list[Tensor],
    state: Mapping[str, list[Tensor]],
    groups: list[int],
    width: int,
) -> Plan:
    """Check the tensors of an LSTM rule's step once and return the native plan that steps them.

    Parameters
    ----------
    device, params, groups
        As for :func:`plan_for`; contiguous float32.
    state : mapping of str to list of Tensor
        ``exp_avg``, ``exp_avg_sq``: like the parameter. ``hidden``, ``cell``: ``[width, *shape]``.
        ``step``: one float32.
    width : int
        Hidden units.

    Raises
    ------
    ValueError, TypeError, RuntimeError
        As :func:`plan_for`.
    """
    kind = _module(device).LstmPlan
    return _native.lend(kind(params, *(state[key] for key in LSTM_STATE), groups, width), device)


def plan_for(
    device: torch.device,
    params: list[Tensor],
    state: Mapping[str, list[Tensor]],
    groups: list[int],
    traits: list[Traits],
) -> Plan:
    """Check the tensors of an MLP rule's step once and return the native plan that steps them.

    Parameters
    ----------
    device : torch.device
        Where they are.
    params : list of Tensor
        The parameters.
    state : mapping of str to list of Tensor
        One entry a parameter each. ``exp_avg``, ``exp_avg_slow``, ``exp_avg_sq``:
        like the parameter in shape, strides, dtype and device. ``stats``: seven
        numbers of the parameter's dtype. ``step``: one float32.
    groups : list of int
        The number of each parameter's group.
    traits : list of tuple
        What the tensor network sees of each shape, five numbers.

    Raises
    ------
    ValueError
        When a tensor does not fit: another device, shape or strides than its parameter, gaps in its
        memory, memory shared with another, no memory at all. The text names the tensor.
    TypeError
        When something is not a tensor, or has a dtype that is not computed.
    RuntimeError
        When there is no native module for `device`.
    """
    kind = _module(device).LearnedPlan
    return _native.lend(kind(params, *(state[key] for key in STATE), groups, traits), device)


def whitened_plan_for(
    params: list[Tensor],
    state: Mapping[str, list[Tensor]],
    groups: list[int],
    traits: list[Traits],
    shapes: list[tuple[int, int, int, int]],
    schedule: tuple[int, float, int, tuple[int, ...]],
) -> Plan:
    """Check the tensors of a whitened step once and return the native plan that steps them.

    Before :func:`run`, ``plan.look(scale, threads)`` begins a step whose gradients are `scale`
    times too large. It returns the places of those whose roots are to be made anew of the means
    before the step goes on.

    Parameters
    ----------
    params, groups, traits
        As for :func:`plan_for`, on the CPU; those that are whitened contiguous float32.
    state : mapping of str to list of Tensor
        As for :func:`plan_for`, and ``rows``, ``rows_root``, ``columns``, ``columns_root``: the
        means of G G^T and of G^T G, and a power of each; empty where a side is left.
    shapes : list of tuple
        Rows and columns of each parameter as a matrix, and the lengths of the sides that are
        whitened, 0 where one is left.
    schedule : tuple
        ``(every, keep, renew, early)``: means look at the gradients of the first step and of every
        `every`-th after it, and keep the share `keep` of what they have seen. Roots are made of
        looks whose number, from 1, is in `early` or a multiple of `renew`.

    Raises
    ------
    ValueError, TypeError, RuntimeError
        As :func:`plan_for`.
    """
    kind = _module(torch.device("cpu")).WhitenedPlan
    columns = [state[key] for key in WHITENED_STATE]
    return kind(params, *columns, groups, traits, shapes, schedule)


def run(
    plan: Plan,
    device: torch.device,
    groups: Sequence[Group],
    net: Net | LstmNet,
    grad_scale: Tensor | None = None,
    found_inf: Tensor | None = None,
) -> None:
    """Step everything in `plan`, whose gradients have been read."""
    with _native.on(device):
        plan.step(groups, *net, grad_scale, found_inf, _native.where(device))


def students_step(
    points: Tensor,
    gradients: Tensor,
    state: Mapping[str, list[Tensor]],
    sizes: list[int],
    traits: list[Traits],
    net: Net,
    lr: float = 1.0,
    num_steps: float | None = None,
) -> None:
    """Step K students of one shape in place, each by weights of its own.

    Parameters
    ----------
    points, gradients : Tensor
        float32 ``[K, P]``; the former is written.
    state : mapping of str to list of Tensor
        As for :func:`plan_for`, with a leading K everywhere; written.
    sizes : list of int
        Elements of each parameter of one student; their sum is P.
    traits : list of tuple
        As for :func:`plan_for`.
    net : Net
        Its `theta` is ``[K, M]``.
    lr, num_steps
        As in :class:`Group`.

    Raises
    ------
    ValueError, TypeError
        When something does not fit. The text names it; nothing has been changed.
    RuntimeError
        When there is no native module for the device.
    """
    device = points.device
    module = _module(device)
    columns = [state[key] for key in STATE]
    lent = None
    if hasattr(module, "learned_students_workspace"):  # on CUDA
        size = module.learned_students_workspace(sizes, len(points))
        lent = torch.zeros(size, dtype=torch.float64, device=device)
    with _native.on(device):
        module.learned_students(
            points,
            gradients,
            *columns,
            sizes,
            traits,
            *net,
            lr,
            num_steps,
            _native.where(device),
            lent,
        )
    written = [points, *(x for column in columns for x in column)]
    torch.autograd.graph.increment_version([x for x in written if not x.is_inference()])


def whiten(matrices: Sequence[Matrix]) -> None:
    """Multiply gradients by roots from both sides, and move the means of their products.

    A gradient whose squares have no finite sum leaves its means as they are.

    Raises
    ------
    ValueError, TypeError
        When something does not fit. The text names it; nothing has been changed.
    RuntimeError
        When there is no native module.
    """
    device = torch.device("cpu")
    _module(device).whiten(matrices, _native.where(device))

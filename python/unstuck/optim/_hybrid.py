"""What the optimizers that try several places have in common: a gradient optimizer within."""

from __future__ import annotations

from abc import abstractmethod
from collections import deque
from collections.abc import Callable, Iterable
from typing import Any, NamedTuple

import torch
from torch import Tensor, nn
from torch.optim import LBFGS, Optimizer

from unstuck.optim._layout import check_gradient, check_parameter, is_shard
from unstuck.optim._light import LightOptimizer, hooked
from unstuck.optim._trials import Closure, RandomState, Trials, as_loss
from unstuck.population import PopulationLoss

HISTORY = 10_000  # records that are kept

Base = Callable[..., Optimizer] | Optimizer


class Record(NamedTuple):
    """What one call of ``step`` did.

    Attributes
    ----------
    phase : str
        ``"gradient"``, ``"escape"`` or ``"rates"``.
    loss : Tensor
        Loss before the step, on its device.
    rate : float or None
        The learning rate that was chosen, of the first parameter group.
    accepted : bool or None
        Whether the place that was found was taken; None for a gradient step.
    reason : str
        Why not, or nothing.
    """

    phase: str
    loss: Tensor
    rate: float | None = None
    accepted: bool | None = None
    reason: str = ""


class Hybrid(LightOptimizer):
    """A gradient optimizer, and something that it cannot do alone.

    Parameter groups and state are those of the gradient optimizer, so that schedulers and
    checkpoints see what it sees. What this class adds is one dictionary of plain values in the
    first group, under ``"search"``.
    """

    def __init__(
        self,
        params: Iterable[Any],
        base: Base,
        lr: float | Tensor | None,
        search: dict[str, Any],
        module: nn.Module | None = None,
    ) -> None:
        if module is not None and not isinstance(module, nn.Module):
            raise TypeError(f"module must be a torch.nn.Module or None, not {module!r}")
        self.module = module
        self._base: Optimizer | None = None
        self.history: deque[Record] = deque(maxlen=HISTORY)
        made = _build(type(self).__name__, base, params, lr)
        super().__init__(made.param_groups, made.defaults)
        self._base = made
        self.param_groups[0]["search"] = {"nfev": 0, "ngev": 0, **search}
        self._step_supports_amp_scaling = False
        self._tie()

    # ------------------------------------------------------------ one set of groups, one state
    def _tie(self) -> None:
        """Make groups and state of the gradient optimizer those of this one."""
        assert self._base is not None
        self._base.__setstate__({"state": self.state, "param_groups": self.param_groups})
        if isinstance(self._base, LBFGS):  # it keeps a list of its own
            self._base._params = self.param_groups[0]["params"]
            self._base._numel_cache = None

    def add_param_group(self, param_group: dict[str, Any]) -> None:
        """Add parameters with settings of their own; see ``torch.optim.Optimizer``."""
        if not isinstance(param_group, dict):
            raise TypeError(f"param_group must be a dict, but got {type(param_group)}")
        if self._base is None:
            super().add_param_group(param_group)
        else:
            if isinstance(self._base, LBFGS):
                raise ValueError("torch.optim.LBFGS takes one parameter group: it cannot get more")
            self._base.add_param_group(dict(param_group))
        try:
            self._check_group(self.param_groups[-1])
        except Exception:
            self.param_groups.pop()
            raise

    def _check_group(self, group: dict[str, Any]) -> None:
        name = type(self).__name__
        for p in group["params"]:
            if not (p.is_floating_point() or p.is_complex()):
                raise TypeError(f"{name}: a parameter has the dtype {p.dtype}; it must be a float")
            check_parameter(name, p)
            if (self._draws_noise or self.module is not None) and is_shard(p):
                raise TypeError(
                    f"{name} moves whole parameters and cannot step shards (DTensor); replicate "
                    "the model, or use LearningRateAttention without module="
                )
        signs = {bool(g.get("maximize", False)) for g in self.param_groups}
        if len(signs) > 1:
            raise ValueError(
                f"{name}: maximize is True in one parameter group and False in another; trials "
                "have one loss, so make it the same in all"
            )

    _draws_noise = True

    def __getstate__(self) -> dict[str, Any]:
        mine = ("_base", "history", "module", *self._settings)
        return {**super().__getstate__(), **{name: self.__dict__[name] for name in mine}}

    _settings: tuple[str, ...] = ()  # attributes that a copy needs, besides the state

    def __setstate__(self, state: dict[str, Any]) -> None:
        groups = state["param_groups"]
        if "_base" not in state:  # load_state_dict
            kept = self._search
            loaded = groups[0].setdefault("search", kept)
            if loaded.keys() != kept.keys():
                raise ValueError(
                    f"{type(self).__name__}: the state was saved by another optimizer: it has "
                    f"{sorted(loaded)}, not {sorted(kept)}"
                )
        super().__setstate__(state)
        self._step_supports_amp_scaling = False
        self._tie()

    @property
    def _search(self) -> dict[str, Any]:
        return self.param_groups[0]["search"]  # type: ignore[no-any-return]

    @property
    def nfev(self) -> int:
        """Losses evaluated so far, those with a gradient included."""
        return int(self._search["nfev"])

    @property
    def ngev(self) -> int:
        """Gradients evaluated so far."""
        return int(self._search["ngev"])

    # ------------------------------------------------------------ steps
    @hooked
    def step(self, closure: Closure | None = None) -> Any:
        """Make one step.

        Parameters
        ----------
        closure : callable
            Evaluates the model on one batch, the same however often it is called within a step,
            and returns the loss. It may clear the gradients and call ``loss.backward()`` itself
            (those calls do nothing where only a loss is wanted). When it does not, both are done
            here, and the gradients are cleared again after the step.

        Returns
        -------
        The closure's loss where the step began.

        Raises
        ------
        TypeError, ValueError
            When there is no closure, or it does not return one real number.
        RuntimeError
            When a gradient is sparse.
        """
        if closure is None:
            raise TypeError(
                f"{type(self).__name__}.step needs a closure that returns the loss: "
                "optimizer.step(lambda: loss_fn(model(x), y))"
            )
        batch = Batch(self, closure)
        with torch.no_grad():
            self._advance(batch)
        if batch.own_gradients:
            self.zero_grad()
        return batch.loss

    @abstractmethod
    def _advance(self, batch: Batch) -> None:
        """Make the step, and record it."""

    def _base_step(self, batch: Batch) -> None:
        """Let the gradient optimizer make its step; L-BFGS evaluates the closure several times."""
        assert self._base is not None
        self._base.step(batch.replay)

    _population: PopulationLoss | None = None  # what is known of the model, made when needed

    def _population_of(self, batch: Batch) -> PopulationLoss | None:
        """Return what evaluates the batch's closure at many places, if the module is known."""
        if self.module is None or not batch.params:
            return None
        made = self._population
        if made is None or [id(p) for p in made.params] != [id(p) for p in batch.params]:
            made = PopulationLoss(self.module, batch.closure, params=batch.params)
        made.use(batch.closure, batch.random)
        self._population = made
        return made

    @property
    def _params(self) -> list[Tensor]:
        """The parameters that may move."""
        return [p for group in self.param_groups for p in group["params"] if p.requires_grad]

    @property
    def _sign(self) -> float:
        return -1.0 if self.param_groups[0].get("maximize", False) else 1.0

    @property
    def _rate(self) -> float:
        return float(self.param_groups[0].get("lr", 1.0))


class Batch:
    """One closure, evaluated where the step began and then elsewhere."""

    def __init__(self, optimizer: Hybrid, closure: Closure) -> None:
        self._optimizer = optimizer
        self.closure = closure
        self.params = optimizer._params
        self.random = RandomState(self.params)
        self.own_gradients = False
        self.loss: Any = None
        self._unused = False

    def gradient(self) -> Any:
        """Evaluate loss and gradient at the parameters as they are."""
        self._optimizer.zero_grad()
        with torch.enable_grad():
            loss = self.closure()
            as_loss(loss)
            if all(p.grad is None for p in self.params):
                self.own_gradients = True
                if isinstance(loss, Tensor) and loss.requires_grad:
                    loss.backward()  # type: ignore[no-untyped-call]
        search = self._optimizer._search
        search["nfev"] += 1
        search["ngev"] += 1
        name = type(self._optimizer).__name__
        for p in self.params:
            if p.grad is not None:
                check_gradient(name, p, p.grad)
        return loss

    def start(self) -> Tensor:
        """Evaluate loss and gradient where the step begins; the loss in float64, to be lowered."""
        self.loss = self.gradient()
        self._unused = True
        return as_loss(self.loss) * self._optimizer._sign

    def replay(self) -> Any:
        """Evaluate as a closure of the gradient optimizer, the first time from what is known."""
        if self._unused:
            self._unused = False
            return self.loss
        return self.gradient()

    def trials(self) -> Trials:
        """Evaluate losses elsewhere."""
        return Trials(self.params, self.closure, self.random)

    @property
    def finite(self) -> bool:
        """Whether the loss and every gradient are finite."""
        grads = [p.grad for p in self.params if p.grad is not None]
        checks = [torch.isfinite(x).all() for x in grads]
        return bool(torch.isfinite(as_loss(self.loss))) and all(bool(x) for x in checks)


def _build(name: str, base: Base, params: Iterable[Any], lr: float | Tensor | None) -> Optimizer:
    """Make the gradient optimizer, or check the one that is given."""
    if isinstance(params, Tensor):
        raise TypeError(
            "params argument given to the optimizer should be an iterable of Tensors or dicts, but "
            f"got {torch.typename(params)}"
        )
    groups = [dict(p) if isinstance(p, dict) else p for p in params]
    if isinstance(base, Optimizer):
        if lr is not None:
            raise ValueError(f"{name}: lr={lr} and a base that is made already: give it its rate")
        wanted = {id(p) for p in _tensors(groups)}
        if wanted != {id(p) for group in base.param_groups for p in group["params"]}:
            raise ValueError(
                f"{name}: the base {type(base).__name__} has other parameters; make it of the "
                "same, or pass the class"
            )
        return base
    if not callable(base):
        raise TypeError(
            f"{name}: base must be a torch.optim class, a function of the parameters or an "
            f"optimizer, not {base!r}"
        )
    made = base(groups) if lr is None else base(groups, lr=lr)
    if not isinstance(made, Optimizer):
        raise TypeError(f"{name}: base must return an optimizer, not {made!r}")
    return made


def _tensors(groups: list[Any]) -> Iterable[Tensor]:
    for entry in groups:
        if isinstance(entry, dict):
            inner = entry["params"]
            yield from _tensors([inner] if isinstance(inner, Tensor) else list(inner))
        else:
            yield entry[1] if isinstance(entry, tuple) else entry

"""Losses of many parameter vectors of one model."""

from __future__ import annotations

from collections.abc import Iterable, Sequence

import torch
from torch import Tensor, nn

from unstuck.ops import candidates, mlp
from unstuck.ops.candidates import Draw, Region
from unstuck.population._along import Line
from unstuck.population._closure import Closure, RandomState
from unstuck.population._evaluate import Evaluator, Job
from unstuck.population._flat import Flat
from unstuck.population._low_rank import LowRank, Noise
from unstuck.population._swap import Replace

__all__ = ["PopulationLoss"]


class PopulationLoss:
    r"""Losses of many parameter vectors of one model, evaluated together.

    Parameters
    ----------
    module : nn.Module
        The model.
    loss : callable
        A plain closure that reads the module and returns the loss, as for
        ``torch.optim.Optimizer.step``. It may clear gradients and call ``loss.backward()``: both do
        nothing here.
    params : iterable of Tensor, optional
        The parameters in which candidates differ, in the order of the flat vectors [P]; by default
        those of the module that require gradients.
    memory : int, optional
        Bytes that candidates and their activations may take at once. By default what stays in the
        cache (16 MiB; 32 MiB for gradients, :meth:`line` and :meth:`low_rank`), on a GPU a
        quarter of what is free.
    chunk : int, optional
        Candidates that are evaluated together, whatever memory they take.
    randomness : str
        ``"same"``: all candidates see the same random numbers, such as dropout masks.
        ``"different"``: each draws its own.

    Attributes
    ----------
    dim : int
        P, the numbers in all `params`; a complex element has two.

    Raises
    ------
    ValueError, TypeError
        For values out of range, or parameters that are not floating point.

    Examples
    --------
    >>> import torch
    >>> from unstuck.population import PopulationLoss
    >>> model = torch.nn.Linear(8, 1)
    >>> x, y = torch.randn(64, 8), torch.randn(64, 1)
    >>> population = PopulationLoss(model, lambda: torch.nn.functional.mse_loss(model(x), y))
    >>> population.dim, population.losses(torch.randn(100, 9)).shape
    (9, torch.Size([100]))

    Notes
    -----
    The closure runs under ``torch.vmap`` with batched tensors in the place of the parameters, those
    of the module (``torch.func.functional_call``) and those that it captured itself. The first call
    evaluates one candidate alone: its activations tell how many fit in `memory`, and its loss
    whether vmap sees what it should.

    Every candidate, in whatever chunk, starts from the same random numbers and the same buffers.
    What it changes is dropped: parameters, buffers, gradients and generators are afterwards what
    they were. Batch normalisation in training mode takes the statistics of the candidate's own
    batch.

    The closure is called once a chunk and must see the same batch each time; where it draws
    another one, calls that need several chunks raise ``ValueError``. It should not keep what it
    computes: these are tensors that mean nothing outside of it.
    """

    def __init__(
        self,
        module: nn.Module,
        loss: Closure,
        *,
        params: Iterable[Tensor] | None = None,
        memory: int | None = None,
        chunk: int | None = None,
        randomness: str = "same",
    ) -> None:
        if not isinstance(module, nn.Module):
            raise TypeError(f"module must be a torch.nn.Module, not {type(module).__name__}")
        if not callable(loss):
            raise TypeError(f"loss must be callable, not {loss!r}")
        trained: list[Tensor] = [p for p in module.parameters() if p.requires_grad]
        chosen = trained if params is None else list(params)
        if not chosen:
            raise ValueError("no parameter requires a gradient: name those that differ in params=")
        for p in chosen:
            if not (p.is_floating_point() or p.is_complex()):
                raise TypeError(f"a parameter has the dtype {p.dtype}; it must be a float")
        if len({id(p) for p in chosen}) < len(chosen):
            raise ValueError("params holds a parameter twice; name each once")
        for name, value in (("memory", memory), ("chunk", chunk)):
            if value is not None and value < 1:
                raise ValueError(f"{name} must be at least 1, not {value}")
        if randomness not in ("same", "different"):
            raise ValueError(f"randomness must be 'same' or 'different', not {randomness!r}")
        self._flat = Flat(chosen)
        self._evaluator = Evaluator(module, loss, self._flat, memory, chunk, randomness)
        self.dim = self._flat.dim

    @property
    def params(self) -> Sequence[Tensor]:
        """The parameters in which candidates differ."""
        return self._flat.params

    def use(self, loss: Closure, random: RandomState | None = None) -> None:
        """Evaluate another closure of the module from now on.

        What is known is kept: the memory that a candidate takes, and what vmap cannot do.

        Parameters
        ----------
        loss : callable
            As at construction.
        random : RandomState, optional
            The state of the generators from which every evaluation draws; by default that at the
            time of a call.
        """
        self._evaluator.swap.closure, self._evaluator.random = loss, random

    @property
    def is_plain(self) -> bool:
        """Whether the closure is, so far as is seen, the loss of a plain multi-layer perceptron."""
        return self._evaluator.plain

    def point(self) -> Tensor:
        """Return the values of the parameters as they are, as a flat vector [P]."""
        return self._flat.gather(self._flat.params)

    def write(self, point: Tensor) -> None:
        """Write a flat vector [P] into the parameters.

        Raises
        ------
        ValueError, TypeError
            When it does not fit.
        """
        self._flat.check(point, "point", 1)
        with torch.no_grad():
            for p, value in zip(self._flat.params, self._flat.split(point), strict=True):
                p.copy_(value)

    # ------------------------------------------------------------ points
    def losses(self, points: Tensor) -> Tensor:
        """Return the losses of flat parameter vectors.

        Parameters
        ----------
        points : Tensor
            [K, P], in the dtype and on the device of :meth:`point`.

        Returns
        -------
        Tensor
            [K].

        Raises
        ------
        ValueError, TypeError
            When `points` does not fit, or the closure does not return one real number.
        """
        self._flat.check(points)
        if (net := self._evaluator.net()) is not None:
            return mlp.losses(net, points.detach())
        return self._evaluator.run(self._at(points.detach()))[0]

    def value_and_gradient(self, points: Tensor) -> tuple[Tensor, Tensor]:
        """Return the losses of flat parameter vectors, and their gradients.

        Parameters
        ----------
        points : Tensor
            [K, P], in the dtype and on the device of :meth:`point`.

        Returns
        -------
        tuple of Tensor
            [K] and [K, P]; zeros where a loss does not depend on a parameter.

        Raises
        ------
        ValueError, TypeError
            When `points` does not fit, or the closure does not return one real number.
        """
        self._flat.check(points)
        if (net := self._evaluator.net(gradient=True)) is not None:
            return mlp.value_and_gradient(net, points.detach())
        losses, gradients = self._evaluator.run(self._at(points.detach(), gradient=True))
        assert gradients is not None
        return losses, gradients

    def candidates(self, region: Region, draw: Draw, count: int) -> Tensor:
        """Return the losses of candidates around a point, of which no more than a chunk is stored.

        Parameters
        ----------
        region : Region
            ``x_i = bound(mean + sigma_i scale eps_i)`` with a flat `mean` [P].
        draw : Draw
            Their noise.
        count : int
            How many.

        Returns
        -------
        Tensor
            [count]; candidate i is ``ops.candidates.sample(region, draw, i, 1)[0]``.

        Raises
        ------
        ValueError, TypeError
            When an argument does not fit, or the closure does not return one real number.
        """
        candidates.check(region, draw, count)
        self._flat.check(region.mean, "region.mean", 1)
        if (net := self._evaluator.net()) is not None:
            return mlp.candidate_losses(net, region, draw, count)

        def batch(first: int, n: int) -> tuple[Tensor, ...]:
            return tuple(self._flat.split(candidates.sample(region, draw, first, n)))

        def point(i: int) -> Tensor:
            return candidates.sample(region, draw, i, 1)[0]

        return self._evaluator.run(Job("points", count, batch, self._loss, point, self._stored))[0]

    # ------------------------------------------------------------ fewer numbers than parameters
    def line(self, direction: Sequence[Tensor] | Tensor, rates: Tensor) -> Tensor:
        """Return the losses along a line from where the parameters are.

        Parameters
        ----------
        direction : Tensor or sequence of Tensor
            d, flat [P] or one tensor for each parameter.
        rates : Tensor
            r [K].

        Returns
        -------
        Tensor
            [K], the losses at ``w - r_k d``.

        Raises
        ------
        ValueError, TypeError
            When an argument does not fit, or the closure does not return one real number.

        Notes
        -----
        Layers compute ``f(h, w) - r f(h, d)``, so that w and d are kept once, whatever K, and the
        products of what does not depend on r are made once.
        """
        if not isinstance(direction, Tensor):
            if [d.shape for d in direction] != [p.shape for p in self.params]:
                raise ValueError(
                    "direction must have a tensor like each parameter, not the shapes "
                    f"{[[*d.shape] for d in direction]}"
                )
            direction = self._flat.gather(direction)
        self._flat.check(direction, "direction", 1)
        if not isinstance(rates, Tensor):
            raise TypeError(f"rates must be a torch.Tensor, not {type(rates).__name__}")
        if rates.ndim != 1 or not rates.is_floating_point():
            raise ValueError(
                f"rates must be floats [K], not {rates.dtype} of shape {[*rates.shape]}"
            )
        d, steps = direction.detach(), rates.detach().to(self._flat.device, self._flat.dtype)
        if (net := self._evaluator.net()) is not None:
            return mlp.line_losses(net, self.point(), d, steps)
        ways = self._flat.split(d)

        def loss(rate: Tensor, *buffers: Tensor) -> Tensor:
            swap = self._evaluator.swap
            return swap(Line(self.params, ways, rate), self._evaluator.changing, buffers)

        def point(i: int) -> Tensor:
            return self.point() - steps[i] * d

        return self._evaluator.run(
            Job("line", len(steps), lambda i, n: (steps[i : i + n],), loss, point, 0, shared=True)
        )[0]

    def low_rank(self, draw: Draw, sigma: float | Tensor, count: int, rank: int = 1) -> Tensor:
        r"""Return the losses of candidates whose matrices differ by a product of low rank.

        .. math:: W_i = W + \frac{\sigma_i}{\sqrt r} A_i B_i^T

        with standard normal A [out, r] and B [in, r]; parameters of fewer than ``r (out + in)``
        numbers, such as biases, differ by ``sigma_i eps_i``.

        Parameters
        ----------
        draw : Draw
            The noise. Antithetic pairs have the same B and opposite A.
        sigma : float or Tensor
            The step size, of all candidates or of each [count].
        count : int
            How many.
        rank : int
            r.

        Returns
        -------
        Tensor
            [count]; the points are those of :meth:`low_rank_points`.

        Raises
        ------
        ValueError, TypeError
            When an argument does not fit, or the closure does not return one real number.

        Notes
        -----
        ``Linear`` and convolutions compute ``f(h, W) + (h B) A^T``: the product with W is one for
        all candidates stacked, and nothing of the size of W is made for any of them.

        Low-rank perturbations as in EGGROLL (Sarkar et al., *Evolution strategies at the
        hyperscale*, 2025).
        """
        noise = Noise(self._flat, draw, sigma, count, rank)
        pairs: list[bool] = []  # which changes are two factors

        def batch(first: int, n: int) -> tuple[Tensor, ...]:
            changes = noise.changes(first, n)
            pairs[:] = [isinstance(c, tuple) for c in changes]
            return tuple(x for c in changes for x in (c if isinstance(c, tuple) else (c,)))

        def loss(*values: Tensor) -> Tensor:
            rest = iter(values)
            changes = [(next(rest), next(rest)) if pair else next(rest) for pair in pairs]
            mode = LowRank(self.params, changes)
            return self._evaluator.swap(mode, self._evaluator.changing, list(rest))

        job = Job("low rank", count, batch, loss, noise.point, noise.bytes, shared=True)
        return self._evaluator.run(job)[0]

    def low_rank_points(
        self, draw: Draw, sigma: float | Tensor, first: int, count: int, rank: int = 1
    ) -> Tensor:
        """Return candidates of :meth:`low_rank` as flat vectors.

        Parameters
        ----------
        draw, sigma, rank
            As for :meth:`low_rank`; a `sigma` tensor has an entry for every candidate from 0 on.
        first, count : int
            Which of them: `first`, ..., ``first + count - 1``.

        Returns
        -------
        Tensor
            [count, P].

        Raises
        ------
        ValueError, TypeError
            When an argument does not fit.
        """
        noise = Noise(self._flat, draw, sigma, first + count, rank)
        out = torch.empty(count, self.dim, dtype=self._flat.dtype, device=self._flat.device)
        for i in range(count):
            out[i] = noise.point(first + i)
        return out

    # ------------------------------------------------------------ jobs
    @property
    def _stored(self) -> int:
        """Bytes of one candidate."""
        return sum(p.numel() * p.element_size() for p in self.params)

    def _loss(self, *values: Tensor) -> Tensor:
        """Evaluate with values for the parameters and for the buffers that change."""
        tensors = [*self.params, *self._evaluator.changing]
        return self._evaluator.swap(Replace((), ()), tensors, values)

    def _at(self, points: Tensor, gradient: bool = False) -> Job:
        """Return the evaluation of given points."""
        return Job(
            "gradients" if gradient else "points",
            len(points),
            lambda first, n: tuple(self._flat.split(points[first : first + n])),
            self._loss,
            points.__getitem__,
            self._stored * (2 if gradient else 1),
            gradient=gradient,
        )

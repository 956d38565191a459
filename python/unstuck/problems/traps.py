"""Training problems that are known to trap: small modules, full-batch losses, stated targets.

Every problem has better points than the one where descent usually ends, and says how low a training
loss shows that one was found. Data and first weights follow from a seed alone.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

import torch
from torch import Tensor, nn

from unstuck.problems._registry import lookup
from unstuck.problems._trap_estimates import (
    blind_deconvolution,
    gaussian_mixture,
    k_means,
    localization,
    lotka_volterra,
)
from unstuck.problems._trap_losses import (
    Made,
    bumps,
    convection,
    dead_units,
    deep_sigmoids,
    encoder,
    matrix_product,
    matrix_sensing,
    parity,
    phase_retrieval,
    sinusoids,
    teacher_student,
    two_spirals,
    xor,
)
from unstuck.problems._trap_nets import adding, normed_parity
from unstuck.problems._trap_physics import helmholtz, lennard_jones, oscillators
from unstuck.problems._trap_unseen import (
    circuit,
    decays,
    hidden_chain,
    mixed_regressions,
    nonnegative,
    pendulum,
    registration,
    thin_film,
)

__all__ = ["TRAPS", "Trap", "TrapRun", "load_trap"]


@dataclass(frozen=True)
class Trap:
    """A row of the table behind :func:`load_trap`.

    Attributes
    ----------
    make : callable
        Takes a generator for the data; returns a function that makes a freshly initialised module,
        the training loss of a module, and, where it is not 0, the loss of what made the data.
    target : float
        A training loss less than that above it is a success: no trap that we know of is that low.
    about : str
        One line: what traps.
    source : str
        Where it is described.
    """

    make: Callable[[torch.Generator], Made]
    target: float
    about: str
    source: str


@dataclass(frozen=True)
class TrapRun:
    """A problem at its start.

    Attributes
    ----------
    name : str
        Name of the problem.
    module : torch.nn.Module
        What is trained; in float32 on the CPU.
    loss : callable
        The full-batch training loss of `module`, a 0-d tensor; without backward.
    target : float
        A training loss below it is a success.
    fresh : callable
        ``fresh(seed)`` returns another module for the same data, initialised anew.

    Examples
    --------
    >>> run = load_trap("xor", seed=0)
    >>> run.module.load_state_dict(run.fresh(1).state_dict())
    <All keys matched successfully>
    """

    name: str
    module: nn.Module
    loss: Callable[[], Tensor]
    target: float
    fresh: Callable[[int], nn.Module]


def load_trap(name: str, seed: int = 0) -> TrapRun:
    """Make a training problem that is known to trap, at its start.

    Parameters
    ----------
    name : str
        One of ``TRAPS``.
    seed : int
        Of the data, where they are drawn, and of the first weights. torch's global generator is
        left as it was.

    Returns
    -------
    TrapRun
        Module, loss and target.

    Raises
    ------
    ValueError
        For an unknown name.

    Examples
    --------
    >>> run = load_trap("xor", seed=3)
    >>> optimizer = torch.optim.LBFGS(
    ...     run.module.parameters(), max_iter=200, line_search_fn="strong_wolfe"
    ... )
    >>> def closure():
    ...     optimizer.zero_grad()
    ...     loss = run.loss()
    ...     loss.backward()
    ...     return loss
    >>> loss = optimizer.step(closure)
    >>> bool(run.loss() < run.target)  # one of the starts that are not trapped
    True
    """
    trap = lookup(TRAPS, name, "trap")
    build, loss, *floor = trap.make(torch.Generator().manual_seed(seed))

    def fresh(seed: int) -> nn.Module:
        with torch.random.fork_rng(devices=[]):
            torch.default_generator.manual_seed(seed)
            return build()

    module = fresh(seed)
    return TrapRun(name, module, lambda: loss(module), trap.target + sum(floor), fresh)


TRAPS: dict[str, Trap] = {
    "xor": Trap(
        lambda _: xor(),
        0.01,
        "two sigmoid units for XOR: saddles, and minima with two rows wrong",
        "Sprinkhuizen-Kuyper and Boers 1996",
    ),
    "parity": Trap(
        lambda _: parity(5, nn.Tanh, 6),
        0.01,
        "six tanh units for the parity of five bits: minima with rows wrong",
        "Rumelhart, Hinton and Williams 1986",
    ),
    "phase-retrieval": Trap(
        phase_retrieval,
        1e-6,
        "squares of 56 products with 16 unknowns: spurious minima when rows are few",
        "Sun, Qu and Wright 2018",
    ),
    "matrix-sensing": Trap(
        matrix_sensing,
        1e-6,
        "a 10 x 10 matrix of rank 2 from 24 products: spurious minima when rows are few",
        "Zhang, Josz, Sojoudi and Lavaei 2018",
    ),
    "convection": Trap(
        lambda _: convection(),
        0.03,
        "physics-informed net for u_t + 30 u_x = 0: flat and wrong away from t = 0",
        "Krishnapriyan, Gholami, Zhe, Kirby and Mahoney 2021",
    ),
    "two-spirals": Trap(
        lambda _: two_spirals(),
        0.02,
        "2-12-12-1 tanh net on two interleaved spirals: plateaus, some rows never right",
        "Lang and Witbrock 1988",
    ),
    "teacher-student": Trap(
        teacher_student,
        1e-5,
        "eight ReLU units learn eight orthogonal ones: minima where one unit does for two",
        "Safran and Shamir 2018",
    ),
    "sinusoids": Trap(
        sinusoids,
        1e-3,
        "amplitudes, frequencies and phases of three waves: a minimum a period",
        "Parascandolo, Huttunen and Virtanen 2017",
    ),
    "deep-sigmoids": Trap(
        lambda _: deep_sigmoids(),
        0.02,
        "3-4-4-4-1 sigmoid net for the parity of three bits: a plateau of vanishing gradients",
        "Glorot and Bengio 2010",
    ),
    "encoder": Trap(
        lambda _: encoder(),
        0.03,
        "8-2-8 encoder: codes that share a corner",
        "Fahlman 1988",
    ),
    "matrix-product": Trap(
        lambda _: matrix_product(),
        1e-4,
        "seven products that multiply 2 x 2 matrices: swamps and diverging factors",
        "Smirnov 2013",
    ),
    "bumps": Trap(
        bumps,
        1e-3,
        "six Gaussian bumps find six: no slope where bumps do not meet, and minima of two on one",
        "Park and Sandberg 1991",
    ),
    "dead-units": Trap(
        lambda _: dead_units(),
        0.01,
        "1-16-16-1 ReLU net that starts with most units dead, for a wave",
        "Lu, Shin, Su and Karniadakis 2020",
    ),
    "gaussian-mixture": Trap(
        gaussian_mixture,
        0.0,
        "likelihood of eight normal densities in the plane: two on one group, one on two",
        "Jin, Zhang, Balakrishnan, Wainwright and Jordan 2016",
    ),
    "k-means": Trap(
        k_means,
        0.0,
        "ten centres, squared distance to the nearest: groups that share one, centres with none",
        "Bottou and Bengio 1995",
    ),
    "localization": Trap(
        localization,
        1e-6,
        "20 places from distances to near ones and four anchors: folded maps",
        "Biswas and Ye 2004",
    ),
    "lotka-volterra": Trap(
        lotka_volterra,
        1e-5,
        "four rates of prey and predators from their course: a minimum a period",
        "Ramsay, Hooker, Campbell and Cao 2007",
    ),
    "blind-deconvolution": Trap(
        blind_deconvolution,
        1e-6,
        "two vectors of 8 from 24 products of their images: spurious minima when rows are few",
        "Li, Ling, Strohmer and Wei 2019",
    ),
    "lennard-jones": Trap(
        lambda _: lennard_jones(),
        -44.0,
        "13 atoms whose lowest energy is -44.327: glasses by the thousand",
        "Wales and Doye 1997",
    ),
    "oscillators": Trap(
        lambda _: oscillators(),
        1e-3,
        "40 phases on a ring, each pulled to its neighbours: twisted rings",
        "Wiley, Strogatz and Girvan 2006",
    ),
    "helmholtz": Trap(
        lambda _: helmholtz(),
        1e-4,
        "physics-informed net for a wave on a line: high frequencies come last",
        "Wang, Wang and Perdikaris 2021",
    ),
    "adding": Trap(
        adding,
        0.02,
        "tanh net that reads 12 pairs and adds two marked ones: a plateau at their mean",
        "Hochreiter and Schmidhuber 1997",
    ),
    "normed-parity": Trap(
        lambda _: normed_parity(),
        0.02,
        "two layers of four ReLU units with batch norms for the parity of four bits",
        "Ioffe and Szegedy 2015",
    ),
    "circuit": Trap(
        circuit,
        1e-3,
        "angles of a circuit of six qubits that makes the state of another: little overlap",
        "Anschuetz and Kiani 2022",
    ),
    "registration": Trap(
        registration,
        0.05,
        "turn and shift of 40 points in space, a quarter of them gone: where few meet",
        "Tsin and Kanade 2004",
    ),
    "nonnegative": Trap(
        nonnegative,
        1e-4,
        "nonnegative factors, of rank 8, of a 12 x 12 matrix: entries that are stuck at zero",
        "Lee and Seung 1999",
    ),
    "pendulum": Trap(
        pendulum,
        1e-4,
        "four numbers of a pendulum that goes over the top, from its angles: courses out of step",
        "Ljung 1999",
    ),
    "decays": Trap(
        decays,
        1e-7,
        "heights and rates of four exponential decays: a canyon, and decays that are alike",
        "Transtrum, Machta and Sethna 2010",
    ),
    "hidden-chain": Trap(
        hidden_chain,
        0.0,
        "likelihood of a hidden Markov chain of six states: states that do for two",
        "Rabiner 1989",
    ),
    "thin-film": Trap(
        thin_film,
        1e-4,
        "thicknesses of four layers on glass from the light that they throw back: fringes",
        "Dobrowolski and Kemp 1990",
    ),
    "mixed-regressions": Trap(
        mixed_regressions,
        0.0,
        "six linear laws, where it is not said which row follows which: two for one, one for two",
        "Yi, Caramanis and Sanghavi 2014",
    ),
}

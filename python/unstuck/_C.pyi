"""unstuck's kernels on the CPU."""

from collections.abc import Sequence
from types import ModuleType
from typing import Any

from torch import Tensor

from unstuck._plans import Row, _Plan, _RulePlan

__version__: str

class AdamPlan(_Plan):
    """The tensors of an Adam step, checked once and watched between steps."""

    def __init__(
        self,
        params: Sequence[Tensor],
        exp_avgs: Sequence[Tensor],
        exp_avg_sqs: Sequence[Tensor],
        steps: Sequence[Tensor],
        groups: Sequence[int],
    ) -> None: ...
    def step(
        self,
        groups: Sequence[Row],
        stats: Tensor | None,
        tracking: Row,
        finish: bool,
        grad_scale: Tensor | None,
        found_inf: Tensor | None,
        where: int,
    ) -> None:
        """One step; `where` is threads or the stream."""

class LearnedPlan(_RulePlan):
    """The tensors of a learned rule's step, checked once and watched after."""

    def __init__(
        self,
        params: Sequence[Tensor],
        exp_avgs: Sequence[Tensor],
        exp_avgs_slow: Sequence[Tensor],
        exp_avg_sqs: Sequence[Tensor],
        stats: Sequence[Tensor],
        steps: Sequence[Tensor],
        groups: Sequence[int],
        traits: Sequence[tuple[float, ...]],
    ) -> None: ...

class WhitenedPlan(_RulePlan):
    """The tensors of the MLP rule's step on whitened gradients, checked once and watched after."""

    def __init__(
        self,
        params: Sequence[Tensor],
        exp_avgs: Sequence[Tensor],
        exp_avgs_slow: Sequence[Tensor],
        exp_avg_sqs: Sequence[Tensor],
        stats: Sequence[Tensor],
        rows: Sequence[Tensor | None],
        rows_roots: Sequence[Tensor | None],
        columns: Sequence[Tensor | None],
        columns_roots: Sequence[Tensor | None],
        steps: Sequence[Tensor],
        groups: Sequence[int],
        traits: Sequence[tuple[float, ...]],
        shapes: Sequence[tuple[int, int, int, int]],
        schedule: tuple[int, float, int, Sequence[int]],
    ) -> None: ...
    def look(self, scale: float, threads: int) -> list[int]:
        """Begin a step; says of which parameters the roots are to be made anew."""

def whiten(matrices: Sequence[tuple[Any, ...]], threads: int) -> None:
    """Whitens gradients as matrices, and has the means of their products look at them."""

class LstmPlan(_Plan):
    """The tensors of an LSTM rule's step, checked once and watched after."""

    def __init__(
        self,
        params: Sequence[Tensor],
        exp_avgs: Sequence[Tensor],
        exp_avg_sqs: Sequence[Tensor],
        hidden: Sequence[Tensor],
        cells: Sequence[Tensor],
        steps: Sequence[Tensor],
        groups: Sequence[int],
        width: int,
    ) -> None: ...
    def step(
        self,
        groups: Sequence[Row],
        theta: Tensor,
        features: int,
        nominal: bool,
        scale: float,
        grad_scale: Tensor | None,
        found_inf: Tensor | None,
        where: int,
    ) -> None:
        """One step; `where` is threads or the stream."""

def learned_students(
    points: Tensor,
    grads: Tensor,
    exp_avgs: Sequence[Tensor],
    exp_avgs_slow: Sequence[Tensor],
    exp_avg_sqs: Sequence[Tensor],
    stats: Sequence[Tensor],
    steps: Sequence[Tensor],
    sizes: Sequence[int],
    traits: Sequence[tuple[float, ...]],
    thetas: Tensor,
    hidden: int,
    control: int,
    lr: float,
    num_steps: float | None,
    where: int,
    workspace: Tensor | None = None,
) -> None:
    """One step of several students, each by weights of its own; CUDA wants a zeroed workspace."""

class AttentionPlan(CandidatePlan):
    """Adaptive attention search on one objective."""

    def __init__(self, landscape: int, parameters: Sequence[float], dim: int) -> None: ...
    def steps(
        self,
        data: Row | None,
        region: Row,
        path: Tensor,
        beta: float,
        share: float,
        draw: Row,
        steps: int,
        losses: Tensor,
        best_x: Tensor,
        best: float,
        where: int,
    ) -> tuple[int, float, float, float, int, float, bool]:
        """Iterations; returns how many, sigma, beta, effective sample size and finite losses.

        Those are of the last one; then come the best loss, and whether it is new. `data` is None
        for the plan's landscape, ``("regression", X, y, lam, kappa, logistic)`` or
        ``("net", X, y, cross_entropy, hidden, outputs)``.
        """

    def workspace_size(self, count: int, antithetic: bool, data: Row | None = None) -> int:
        """float64 numbers that set_workspace() needs for steps with this many candidates."""

class BlendPlan(_Plan):
    """The tensors of a blend step, checked once and watched between steps."""

    def __init__(
        self,
        params: Sequence[Tensor],
        exp_avgs: Sequence[Tensor],
        exp_avg_sqs: Sequence[Tensor],
        momentum_buffers: Sequence[Tensor | None],
        directions: Sequence[Tensor | None],
        steps: Sequence[Tensor],
        groups: Sequence[int],
        units: Sequence[int],
        had_previous: Sequence[bool],
    ) -> None: ...
    def hypergradient(self, groups: Sequence[Row], finish: bool, where: int) -> None:
        """Sums of another batch's gradients against the last update."""

    def step(
        self,
        groups: Sequence[Row],
        grad_scale: Tensor | None,
        found_inf: Tensor | None,
        finish: bool,
        where: int,
    ) -> None:
        """One step; `where` is threads or the stream."""

class CandidatePlan:
    """Candidates of one objective: evaluated and weighed without being stored."""

    def __init__(self, landscape: int, parameters: Sequence[float], dim: int) -> None: ...
    def combine(
        self, region: Row, draw: Row, weights: Tensor, shift: Tensor, square: Tensor, where: int
    ) -> None:
        """Weighted sums of the candidates' ways from the mean."""

    def losses(self, region: Row, draw: Row, out: Tensor, where: int) -> None:
        """Losses of the candidates; `where` is threads or the stream."""

    def sample(self, region: Row, draw: Row, first: int, out: Tensor, where: int) -> None:
        """Candidates first, first + 1, ..."""

    def softmax(
        self,
        region: Row,
        draw: Row,
        beta: float,
        out: Tensor,
        shift: Tensor,
        square: Tensor,
        where: int,
    ) -> float:
        """Losses and softmax-weighted sums; returns the effective sample size."""

    def set_workspace(self, workspace: Tensor) -> None:
        """Lend scratch memory on the device."""

    def values(self, points: Tensor, out: Tensor, where: int) -> None:
        """The objective at the rows of a matrix."""

    def workspace_size(self, count: int, antithetic: bool) -> int:
        """float64 numbers that set_workspace() needs for calls with this many candidates."""

def gate_layout() -> dict[str, int]:
    """Sizes of the gate's vector; unstuck.ops.gate holds the same layout."""

def gate_size(hidden: int, units: int) -> int:
    """The length of the gate's vector."""

def init(torch: ModuleType, dlpack: bool = True, handles: bool = True) -> bool:
    """Bind to the imported torch; True when tensors are read through the DLPack exchange API."""

def instruction_set() -> str:
    """The clone that the loader chose."""

def landscape_gradients(
    landscape: int,
    parameters: Sequence[float],
    points: Tensor,
    out: Tensor,
    gradients: Tensor,
    where: int,
    workspace: Tensor | None = None,
) -> None:
    """A landscape and its gradients at rows of a matrix; CUDA wants a `workspace`."""

def noise_forms() -> list[str]:
    """The instruction sets that noise can be drawn with."""

def noise_words(draw: Row, first: int, out: Tensor, form: str, where: int) -> None:
    """The integers behind the noise, as float64; `form` is one of noise_forms()."""

def landscape_trials(
    landscape: int,
    parameters: Sequence[float],
    w: Tensor,
    d: Tensor,
    rates: Tensor,
    beta: float,
    losses: Tensor,
    p: Tensor | None,
    moved: Tensor | None,
    rate: Tensor | None,
    workspace: Tensor | None,
    where: int,
) -> None:
    """Losses of a landscape at w - rates d and, unless moved is None, the step they decide on."""

def linear_candidates(
    X: Tensor,
    y: Tensor,
    lam: float,
    kappa: float,
    logistic: bool,
    region: Row,
    draw: Row,
    losses: Tensor,
    where: int,
    workspace: Tensor | None = None,
) -> None:
    """Losses of candidates of a regression, in a region without bounds."""

def mlp_candidates(
    net: Row, region: Row, draw: Row, losses: Tensor, where: int, workspace: Tensor | None = None
) -> None:
    """Losses of a multi-layer perceptron at candidates around a point."""

def mlp_descend(
    net: Row,
    points: Tensor,
    exp_avgs: Tensor,
    exp_avg_sqs: Tensor,
    step: int,
    segments: Sequence[Row],
    losses: Tensor,
    where: int,
) -> None:
    """A step of Adam from each of many points of a multi-layer perceptron."""

def mlp_line(
    net: Row,
    w: Tensor,
    d: Tensor,
    rates: Tensor,
    losses: Tensor,
    where: int,
    workspace: Tensor | None = None,
) -> None:
    """Losses of a multi-layer perceptron at w - rates d."""

def mlp_points(
    net: Row,
    points: Tensor,
    losses: Tensor,
    gradients: Tensor | None,
    where: int,
    workspace: Tensor | None = None,
) -> None:
    """Losses of a multi-layer perceptron at points and, unless None, their gradients."""

def net_candidates(
    X: Tensor,
    y: Tensor,
    cross_entropy: bool,
    hidden: int,
    outputs: int,
    region: Row,
    draw: Row,
    losses: Tensor,
    where: int,
    workspace: Tensor | None = None,
) -> None:
    """Losses of candidates of a two-layer net."""

def net_trials(
    first: Tensor,
    y: Tensor,
    cross_entropy: bool,
    features: int,
    hidden: int,
    outputs: int,
    w: Tensor,
    d: Tensor,
    rates: Tensor,
    beta: float,
    losses: Tensor,
    p: Tensor | None,
    moved: Tensor | None,
    rate: Tensor | None,
    workspace: Tensor | None,
    where: int,
) -> None:
    """The same of a two-layer net, from its first layer's outputs at w and along d."""

def regression_gradient(
    X: Tensor,
    y: Tensor,
    lam: float,
    kappa: float,
    logistic: bool,
    w: Tensor,
    loss: Tensor,
    gradient: Tensor,
    where: int,
    workspace: Tensor | None = None,
) -> None:
    """A regression's loss and gradient, in one pass."""

def regression_trials(
    X: Tensor,
    y: Tensor,
    lam: float,
    kappa: float,
    logistic: bool,
    w: Tensor,
    d: Tensor,
    rates: Tensor,
    beta: float,
    losses: Tensor,
    p: Tensor | None,
    moved: Tensor | None,
    rate: Tensor | None,
    workspace: Tensor | None,
    where: int,
) -> None:
    """Losses of a regression at w - rates d and, unless moved is None, the step they decide on."""

def stagnation_header() -> int:
    """Numbers before the windows of a statistics vector."""

"""The landscapes in plain torch: the truth that the kernels are tested against, and the fallback.

Every entry of :data:`TABLE` holds a value and an analytic gradient over the last dimension. Where a
formula has no derivative (the cone of Ackley's function, ``abs`` below a root) the gradient is 0.
"""

from __future__ import annotations

import math
from collections.abc import Callable
from typing import NamedTuple

import torch
from torch import Tensor

__all__ = ["SCHWEFEL", "TABLE", "Formula", "value", "value_and_gradient"]

TAU = 2 * math.pi
SCHWEFEL = 418.98288727243378  # the largest x sin sqrt(x) for x in [0, 500]
PEAKS = ((2.0, 2.0), (2.0, -2.0), (-2.0, 2.0), (-2.0, -2.0), (0.0, 0.0))
Parameters = tuple[float, ...]


class Formula(NamedTuple):
    """A landscape: its value, its gradient, and the dimensions it is defined in."""

    value: Callable[[Tensor, Parameters], Tensor]
    gradient: Callable[[Tensor, Parameters], Tensor]
    least: int = 1
    most: int | None = None
    parameters: Parameters = ()  # the defaults


def _index(x: Tensor) -> Tensor:
    """1, 2, ..., D, as the formulas count."""
    return torch.arange(1, x.shape[-1] + 1, dtype=x.dtype, device=x.device)


def _sign_over_root(x: Tensor) -> Tensor:
    """The derivative of ``2 sqrt(abs(x))``, and 0 at 0."""
    root = x.abs().sqrt()
    return torch.where(root > 0, x.sign() / root, 0.0)


def _sphere(x: Tensor, _: Parameters) -> Tensor:
    return (x * x).sum(-1)


def _sphere_gradient(x: Tensor, _: Parameters) -> Tensor:
    return 2 * x


def _rastrigin(x: Tensor, _: Parameters) -> Tensor:
    return (x * x + 20 * torch.sin(math.pi * x) ** 2).sum(-1)  # 1 - cos 2a = 2 sin^2 a


def _rastrigin_gradient(x: Tensor, _: Parameters) -> Tensor:
    return 2 * x + 10 * TAU * torch.sin(TAU * x)


def _ackley(x: Tensor, _: Parameters) -> Tensor:
    radius = (x * x).mean(-1).sqrt()
    waves = (torch.sin(math.pi * x) ** 2).mean(-1)
    return -20 * torch.expm1(-0.2 * radius) - math.e * torch.expm1(-2 * waves)


def _ackley_gradient(x: Tensor, _: Parameters) -> Tensor:
    radius = (x * x).mean(-1, keepdim=True).sqrt()
    cone = torch.where(radius > 0, 4 * torch.exp(-0.2 * radius) / radius, 0.0)
    waves = torch.cos(TAU * x).mean(-1, keepdim=True).exp()
    return (cone * x + waves * TAU * torch.sin(TAU * x)) / x.shape[-1]


def _griewank(x: Tensor, _: Parameters) -> Tensor:
    return 1 + (x * x).sum(-1) / 4000 - torch.cos(x / _index(x).sqrt()).prod(-1)


def _griewank_gradient(x: Tensor, _: Parameters) -> Tensor:
    root = _index(x).sqrt()
    cosine = torch.cos(x / root)
    one = torch.ones_like(cosine[..., :1])
    before = torch.cat([one, cosine[..., :-1]], -1).cumprod(-1)
    after = torch.cat([one, cosine.flip(-1)[..., :-1]], -1).cumprod(-1).flip(-1)
    return x / 2000 + before * after * torch.sin(x / root) / root


def _rosenbrock(x: Tensor, _: Parameters) -> Tensor:
    a, b = x[..., :-1], x[..., 1:]
    return (100 * (b - a * a) ** 2 + (1 - a) ** 2).sum(-1)


def _rosenbrock_gradient(x: Tensor, _: Parameters) -> Tensor:
    a, b = x[..., :-1], x[..., 1:]
    valley = b - a * a
    zero = torch.zeros_like(x[..., :1])
    own = torch.cat([-400 * a * valley - 2 * (1 - a), zero], -1)
    return own + torch.cat([zero, 200 * valley], -1)


def _eggholder(x: Tensor, _: Parameters) -> Tensor:
    u, v = x[..., 0], x[..., 1] + 47
    return -v * torch.sin((u / 2 + v).abs().sqrt()) - u * torch.sin((u - v).abs().sqrt())


def _eggholder_gradient(x: Tensor, _: Parameters) -> Tensor:
    u, v = x[..., 0], x[..., 1] + 47
    p, q = u / 2 + v, u - v
    root_p, root_q = p.abs().sqrt(), q.abs().sqrt()
    slope_p = v * torch.cos(root_p) * _sign_over_root(p) / 2
    slope_q = u * torch.cos(root_q) * _sign_over_root(q) / 2
    return torch.stack(
        [-slope_p / 2 - torch.sin(root_q) - slope_q, -torch.sin(root_p) - slope_p + slope_q], -1
    )


def _peaks(x: Tensor) -> tuple[Tensor, Tensor]:
    """Return the way from every centre [..., 5, 2] and the height there [..., 5, 1]."""
    way = x.unsqueeze(-2) - torch.tensor(PEAKS, dtype=x.dtype, device=x.device)
    return way, torch.exp(-3 * (way * way).sum(-1, keepdim=True))


def _gaussian_peaks(x: Tensor, _: Parameters) -> Tensor:
    return -_peaks(x)[1].sum((-2, -1))


def _gaussian_peaks_gradient(x: Tensor, _: Parameters) -> Tensor:
    way, height = _peaks(x)
    return (6 * way * height).sum(-2)


def _egg_box_bowl(x: Tensor, _: Parameters) -> Tensor:
    u, v = x[..., 0], x[..., 1]
    return torch.sin(u) * torch.cos(v) + 0.1 * (u * u + v * v)


def _egg_box_bowl_gradient(x: Tensor, _: Parameters) -> Tensor:
    u, v = x[..., 0], x[..., 1]
    return torch.stack(
        [torch.cos(u) * torch.cos(v) + 0.2 * u, -torch.sin(u) * torch.sin(v) + 0.2 * v], -1
    )


def _ravine(x: Tensor, parameters: Parameters) -> Tensor:
    a, b = parameters
    return a * x[..., 0] ** 2 + b * x[..., 1] ** 2


def _ravine_gradient(x: Tensor, parameters: Parameters) -> Tensor:
    return 2 * x * torch.tensor(parameters, dtype=x.dtype, device=x.device)


def _scaled_saddle(x: Tensor, _: Parameters) -> Tensor:
    u, v = x[..., 0], x[..., 1]
    return 0.01 * u * u + 100 * v * v * torch.sin(0.1 * u) * torch.cos(0.1 * v)


def _scaled_saddle_gradient(x: Tensor, _: Parameters) -> Tensor:
    u, v = x[..., 0], x[..., 1]
    sine, cosine = torch.sin(0.1 * u), torch.cos(0.1 * v)
    return torch.stack(
        [
            0.02 * u + 10 * v * v * torch.cos(0.1 * u) * cosine,
            200 * v * sine * cosine - 10 * v * v * sine * torch.sin(0.1 * v),
        ],
        -1,
    )


def _schwefel(x: Tensor, _: Parameters) -> Tensor:
    return (SCHWEFEL - x * torch.sin(x.abs().sqrt())).sum(-1)


def _schwefel_gradient(x: Tensor, _: Parameters) -> Tensor:
    root = x.abs().sqrt()
    return -torch.sin(root) - root * torch.cos(root) / 2


def _levy(x: Tensor, _: Parameters) -> Tensor:
    w = (x - 1) / 4  # one less than usual
    first, last = torch.sin(math.pi * w[..., 0]) ** 2, w[..., -1]
    inner = w[..., :-1] ** 2 * (1 + 10 * torch.sin(math.pi * (w[..., :-1] + 1) + 1) ** 2)
    return first + inner.sum(-1) + last**2 * (1 + torch.sin(TAU * last) ** 2)


def _levy_gradient(x: Tensor, _: Parameters) -> Tensor:
    w = (x - 1) / 4
    inner, last = w[..., :-1], w[..., -1:]
    phase = math.pi * (inner + 1) + 1
    slope = 2 * inner * (1 + 10 * torch.sin(phase) ** 2)
    slope = slope + inner**2 * 10 * math.pi * torch.sin(2 * phase)
    end = 2 * last * (1 + torch.sin(TAU * last) ** 2) + last**2 * TAU * torch.sin(2 * TAU * last)
    start = torch.cat([torch.ones_like(w[..., :1]), torch.zeros_like(inner)], -1)
    return (torch.cat([slope, end], -1) + start * math.pi * torch.sin(TAU * w)) / 4


def _styblinski_tang(x: Tensor, _: Parameters) -> Tensor:
    return (x**4 - 16 * x * x + 5 * x).sum(-1) / 2


def _styblinski_tang_gradient(x: Tensor, _: Parameters) -> Tensor:
    return 2 * x**3 - 16 * x + 2.5


def _michalewicz(x: Tensor, _: Parameters) -> Tensor:
    return -(torch.sin(x) * torch.sin(_index(x) * x * x / math.pi) ** 20).sum(-1)


def _michalewicz_gradient(x: Tensor, _: Parameters) -> Tensor:
    phase = _index(x) * x * x / math.pi
    sine = torch.sin(phase)
    inner = 20 * sine**19 * torch.cos(phase) * 2 * _index(x) * x / math.pi
    return -torch.cos(x) * sine**20 - torch.sin(x) * inner


def _zakharov(x: Tensor, _: Parameters) -> Tensor:
    tilt = (_index(x) / 2 * x).sum(-1)
    return (x * x).sum(-1) + tilt**2 + tilt**4


def _zakharov_gradient(x: Tensor, _: Parameters) -> Tensor:
    tilt = (_index(x) / 2 * x).sum(-1, keepdim=True)
    return 2 * x + (tilt + 2 * tilt**3) * _index(x)


#: Every landscape by its name, in the order of the native module's numbers.
TABLE = {
    "sphere": Formula(_sphere, _sphere_gradient),
    "rastrigin": Formula(_rastrigin, _rastrigin_gradient),
    "ackley": Formula(_ackley, _ackley_gradient),
    "griewank": Formula(_griewank, _griewank_gradient),
    "rosenbrock": Formula(_rosenbrock, _rosenbrock_gradient, least=2),
    "eggholder": Formula(_eggholder, _eggholder_gradient, 2, 2),
    "gaussian_peaks": Formula(_gaussian_peaks, _gaussian_peaks_gradient, 2, 2),
    "egg_box_bowl": Formula(_egg_box_bowl, _egg_box_bowl_gradient, 2, 2),
    "ravine": Formula(_ravine, _ravine_gradient, 2, 2, (1.0, 2.0)),
    "scaled_saddle": Formula(_scaled_saddle, _scaled_saddle_gradient, 2, 2),
    "schwefel": Formula(_schwefel, _schwefel_gradient),
    "levy": Formula(_levy, _levy_gradient),
    "styblinski_tang": Formula(_styblinski_tang, _styblinski_tang_gradient),
    "michalewicz": Formula(_michalewicz, _michalewicz_gradient),
    "zakharov": Formula(_zakharov, _zakharov_gradient),
}


def value(name: str, parameters: Parameters, x: Tensor) -> Tensor:
    """Return the values [...] of a landscape at the points `x` [..., D]; differentiable."""
    return TABLE[name].value(x, parameters)


def value_and_gradient(name: str, parameters: Parameters, x: Tensor) -> tuple[Tensor, Tensor]:
    """Return the values [...] and the gradients [..., D] at the points `x` [..., D]."""
    formula = TABLE[name]
    return formula.value(x, parameters), formula.gradient(x, parameters)

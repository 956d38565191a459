"""Parameters side by side in one flat vector, and views of many such vectors."""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor
from torch.nn import Parameter


class Flat:
    """Where each parameter lies in a flat vector [P]: one after the other, row-major.

    A complex element is two numbers. Vectors are float64 where a parameter is, float32 otherwise,
    and lie on the device of the first parameter.
    """

    def __init__(self, params: Sequence[Tensor]) -> None:
        self.params = params
        self.sizes = [p.numel() * (2 if p.is_complex() else 1) for p in params]
        self.dim = sum(self.sizes)
        self.device = params[0].device
        wide = any(p.dtype in (torch.float64, torch.complex128) for p in params)
        self.dtype = torch.float64 if wide else torch.float32

    @property
    def plain(self) -> bool:
        """Whether the vector holds the parameters' numbers just as they lie in memory."""
        return self.device.type in ("cpu", "cuda") and all(
            type(p) in (Tensor, Parameter) and p.dtype == self.dtype and p.device == self.device
            for p in self.params
        )

    def gather(self, tensors: Sequence[Tensor]) -> Tensor:
        """Return tensors like the parameters as one vector [P], a copy."""
        parts = [_real(x.detach()).to(self.device, self.dtype).reshape(-1) for x in tensors]
        return torch.cat(parts)

    def stack(self, tensors: Sequence[Tensor], out: Tensor) -> None:
        """Write tensors [K, *shape] like the parameters into vectors `out` [K, P]."""
        for x, part in zip(tensors, torch.split(out, self.sizes, -1), strict=True):
            part.copy_(_real(x).reshape(part.shape))

    def split(self, points: Tensor) -> list[Tensor]:
        """Return vectors [..., P] as tensors [..., *shape] of the parameters' dtypes."""
        lead = points.shape[:-1]
        out = []
        for p, part in zip(self.params, torch.split(points, self.sizes, -1), strict=True):
            if p.is_complex():
                real = torch.float64 if p.dtype is torch.complex128 else torch.float32
                pairs = part.to(p.device, real).reshape((*lead, *p.shape, 2))
                out.append(torch.view_as_complex(pairs.clone()))  # at an even place
            else:
                out.append(part.to(p.device, p.dtype).reshape((*lead, *p.shape)))
        return out

    def check(self, points: Tensor, name: str = "points", ndim: int = 2) -> None:
        """Refuse anything but points [K, P], or one [P]."""
        shape = f"[K, {self.dim}]" if ndim == 2 else f"[{self.dim}]"
        if not isinstance(points, Tensor):
            raise TypeError(f"{name} must be a torch.Tensor, not {type(points).__name__}")
        if points.ndim != ndim or points.shape[-1] != self.dim:
            raise ValueError(f"{name} must have the shape {shape}, not {[*points.shape]}")
        if points.dtype is not self.dtype or points.device != self.device:
            raise ValueError(
                f"{name} must be {self.dtype} on {self.device}, as the parameters want it, not "
                f"{points.dtype} on {points.device}"
            )


def _real(x: Tensor) -> Tensor:
    return torch.view_as_real(x.resolve_conj()) if x.is_complex() else x

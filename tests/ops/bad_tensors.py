"""Things that no op may take for a good tensor, each made from one."""

from __future__ import annotations

import warnings
from collections.abc import Callable
from typing import Any

import numpy as np
import torch
from torch import Tensor
from torch._subclasses.fake_tensor import FakeTensorMode


class Wrapper(Tensor):
    """A tensor subclass without memory of its own."""

    @staticmethod
    def __new__(cls, x: Tensor) -> Wrapper:
        return Tensor._make_wrapper_subclass(cls, x.shape, dtype=x.dtype, device=x.device)

    @classmethod
    def __torch_dispatch__(cls, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        raise NotImplementedError("a wrapper that can do nothing")


def _fake(x: Tensor) -> Tensor:
    with FakeTensorMode() as mode:
        return mode.from_tensor(x)


def _quietly(make: Callable[[], Tensor]) -> Tensor:
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # of features that torch calls experimental
        return make()


def _without_storage(x: Tensor) -> Tensor:
    x.untyped_storage().resize_(0)
    return x


def _behind(x: Tensor) -> Tensor:
    """Return a copy that starts in the middle of its storage."""
    return torch.stack([x, x])[1]


#: Not a tensor at all.
OBJECTS: dict[str, Callable[[Tensor], Any]] = {
    "none": lambda x: None,
    "number": lambda x: 1.5,
    "text": lambda x: "tensor",
    "numpy": lambda x: np.zeros(tuple(x.shape), np.float32),
    "list": lambda x: x.tolist() if x.dim() else [1.0],
    "tuple": lambda x: (x,),
    "nested-tuple": lambda x: ((x, x), x),
    "class": lambda x: torch.Tensor,
    "dtype": lambda x: torch.float32,
}

#: A tensor that holds no plain numbers in memory of its own.
UNREADABLE: dict[str, Callable[[Tensor], Any]] = {
    "meta": lambda x: x.to("meta"),
    "fake": _fake,
    "fake-view": lambda x: _fake(_behind(x)),
    "wrapper": Wrapper,
    "coo": lambda x: x.reshape(-1, 1).to_sparse(),
    "csr": lambda x: _quietly(lambda: x.reshape(-1, 1).to_sparse_csr()),
    "mkldnn": lambda x: x.float().reshape(-1, 1).to_mkldnn(),
    "nested": lambda x: _quietly(
        lambda: torch.nested.nested_tensor([torch.ones(2), torch.ones(3)])
    ),
    "jagged": lambda x: _quietly(
        lambda: torch.nested.nested_tensor([torch.ones(2), torch.ones(3)], layout=torch.jagged)
    ),
    "quantized": lambda x: _quietly(
        lambda: torch.quantize_per_tensor(x.float(), 0.1, 0, torch.qint8)
    ),
    "zero-tensor": lambda x: torch._efficientzerotensor(tuple(x.shape)),
    "freed": lambda x: _without_storage(x.clone()),
    "freed-view": lambda x: _without_storage(_behind(x)),
    "negated": lambda x: torch._neg_view(x.clone()),
}

#: A tensor of another dtype.
DTYPES: dict[str, Callable[[Tensor], Any]] = {
    "int32": lambda x: x.to(torch.int32),
    "int64": lambda x: x.to(torch.int64),
    "bool": lambda x: x.to(torch.bool),
    "uint8": lambda x: x.to(torch.uint8),
    "float8": lambda x: x.to(torch.float8_e4m3fn),
    "complex": lambda x: x.to(torch.complex64),
    "conjugated": lambda x: x.to(torch.complex64).conj(),
    "complex32": lambda x: _quietly(lambda: x.to(torch.complex32)),
    "float64": lambda x: x.double(),
    "float16": lambda x: x.half(),
    "bfloat16": lambda x: x.bfloat16(),
}

#: A tensor of another shape.
SHAPES: dict[str, Callable[[Tensor], Any]] = {
    "empty": lambda x: x.new_empty(0),
    "longer": lambda x: x.new_zeros(x.numel() + 1),
    "2^62-elements": lambda x: x.new_zeros(1).expand(2**62),
    "2^62-in-many-dims": lambda x: x.new_zeros(1).expand(*[2] * 62),
}

#: A tensor of the right shape whose elements lie otherwise; only where there are several.
STRIDES: dict[str, Callable[[Tensor], Any]] = {
    "transposed": lambda x: x.t().contiguous().t(),
    "gaps": lambda x: torch.zeros(*x.shape, 2)[..., 0].copy_(x),
    "expanded": lambda x: x[:1].expand(x.shape),
    "self-overlapping": lambda x: torch.zeros(x.numel()).as_strided(x.shape, (1, 1)),
}
KINDS = {**OBJECTS, **UNREADABLE, **DTYPES, **SHAPES, **STRIDES}

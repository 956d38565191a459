"""Reads and writes safetensors files: a length, a JSON header, plain numbers. Nothing is executed.

The format, version 0.3 and later: 8 bytes, the length N of the header, little-endian; N bytes of
JSON, ``{"name": {"dtype", "shape", "data_offsets": [begin, end]}, "__metadata__": {text: text}}``;
the tensors, row-major and little-endian, without gaps. See
https://github.com/huggingface/safetensors.
"""

from __future__ import annotations

import json
import math
import os
import sys
import zlib
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

DTYPES = {
    "F64": torch.float64,
    "F32": torch.float32,
    "F16": torch.float16,
    "BF16": torch.bfloat16,
    "I64": torch.int64,
    "I32": torch.int32,
    "U8": torch.uint8,
    "BOOL": torch.bool,
}
NAMES = {dtype: name for name, dtype in DTYPES.items()}
LONGEST = 100_000_000  # bytes of a header
CHECK = "crc32"  # of the numbers, among the metadata


def write(path: str | os.PathLike[str], tensors: dict[str, Tensor], about: dict[str, Any]) -> None:
    """Write named tensors and JSON values, at once or not at all.

    Raises
    ------
    TypeError
        When a tensor has a dtype that is not written, or a value is not fit for JSON.
    """
    header: dict[str, Any] = {}
    parts, at = [], 0
    for name, x in sorted(tensors.items(), key=lambda item: -item[1].element_size()):
        if x.dtype not in NAMES:
            raise TypeError(f"{name} has dtype {x.dtype}; write one of {sorted(NAMES.values())}")
        flat = x.detach().cpu().contiguous().reshape(-1)
        part = flat.view(torch.uint8).numpy().tobytes() if flat.numel() else b""
        parts.append(_swapped(part, x.element_size()))
        header[name] = {
            "dtype": NAMES[x.dtype],
            "shape": list(x.shape),
            "data_offsets": [at, at + len(part)],
        }
        at += len(part)
    body = b"".join(parts)
    about = {**about, CHECK: zlib.crc32(body)}
    header["__metadata__"] = {k: json.dumps(v) for k, v in about.items()}
    text = json.dumps(header).encode()
    text += b" " * (-len(text) % 8)  # so that the numbers are aligned
    path = Path(path)
    beside = path.with_name(f"{path.name}.{os.getpid()}.part")
    try:
        beside.write_bytes(len(text).to_bytes(8, "little") + text + body)
        os.replace(beside, path)
    except BaseException:
        beside.unlink(missing_ok=True)
        raise


def read(path: str | os.PathLike[str]) -> tuple[dict[str, Tensor], dict[str, Any]]:
    """Return the tensors and the JSON values of a file that :func:`write` has written.

    Raises
    ------
    ValueError
        When the file is damaged or is none of these. The text says what is wrong with it.
    FileNotFoundError
        When there is none.
    """
    data = Path(path).read_bytes()
    try:
        return _parse(data)
    except _DamageError as damage:
        raise ValueError(
            f"{os.fspath(path)!r} is not a whole safetensors file: {damage}; write it again, or "
            "fetch it again"
        ) from None


class _DamageError(Exception):
    """What is wrong with a file."""


def _parse(data: bytes) -> tuple[dict[str, Tensor], dict[str, Any]]:
    if len(data) < 8:
        raise _DamageError(f"it has {len(data)} bytes, less than the 8 that every one begins with")
    length = int.from_bytes(data[:8], "little")
    if length > min(LONGEST, len(data) - 8):
        raise _DamageError(f"its header should have {length} bytes, but {len(data) - 8} follow")
    try:
        header = json.loads(data[8 : 8 + length].decode())
    except (ValueError, RecursionError) as error:  # of decode as well
        raise _DamageError(f"its header is not JSON ({type(error).__name__})") from None
    if not isinstance(header, dict):
        raise _DamageError("its header is not a JSON object")
    about = header.pop("__metadata__", {})
    if not isinstance(about, dict) or not all(isinstance(v, str) for v in about.values()):
        raise _DamageError("its metadata are not texts by name")
    values = {}
    for key, text in about.items():
        try:
            values[key] = json.loads(text)
        except (ValueError, RecursionError):
            values[key] = text  # of another writer
    body = data[8 + length :]
    tensors = {name: _tensor(name, entry, body) for name, entry in header.items()}
    used = sum(x.numel() * x.element_size() for x in tensors.values())
    if used != len(body):
        raise _DamageError(f"its tensors take {used} bytes, but it holds {len(body)}")
    if values.pop(CHECK, None) not in (None, zlib.crc32(body)):
        raise _DamageError("its numbers are not those that were written (the checksum differs)")
    return tensors, values


def _tensor(name: str, entry: Any, body: bytes) -> Tensor:
    if not isinstance(entry, dict):
        raise _DamageError(f"the entry of {name!r} is not a JSON object")
    dtype: Any = entry.get("dtype")
    shape: Any = entry.get("shape")
    span: Any = entry.get("data_offsets")
    if not isinstance(dtype, str) or dtype not in DTYPES:
        raise _DamageError(f"{name!r} has dtype {dtype!r}; known are {', '.join(DTYPES)}")
    if not _counts(shape):
        raise _DamageError(f"{name!r} has the shape {shape!r}")
    if not _counts(span) or len(span) != 2 or not span[0] <= span[1] <= len(body):
        raise _DamageError(f"{name!r} lies at {span!r} of {len(body)} bytes")
    size = DTYPES[dtype].itemsize
    if math.prod(shape) * size != span[1] - span[0]:
        raise _DamageError(f"{name!r} of shape {shape} takes {span[1] - span[0]} bytes")
    if not math.prod(shape):
        return torch.empty(shape, dtype=DTYPES[dtype])
    numbers = bytearray(_swapped(body[span[0] : span[1]], size))
    return torch.frombuffer(numbers, dtype=DTYPES[dtype]).reshape(shape)


def _counts(x: Any) -> bool:
    return isinstance(x, list) and all(type(n) is int and 0 <= n < 2**48 for n in x)


def _swapped(data: bytes, size: int) -> bytes:
    """Return numbers of `size` bytes in the order of bytes that files have."""
    if sys.byteorder == "little" or size == 1:
        return data
    return b"".join(data[i : i + size][::-1] for i in range(0, len(data), size))

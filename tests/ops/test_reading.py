"""How native code reads tensors: through the DLPack exchange API, and without it."""

from __future__ import annotations

import ctypes
import subprocess
import sys
import textwrap
from collections.abc import Iterator
from types import ModuleType, SimpleNamespace
from typing import Any

import pytest
import torch
from torch import Tensor

from .cases import LAYOUTS, Case, assert_close, make_case, with_group

ATTRIBUTE = "__dlpack_c_exchange_api__"
NAME = b"dlpack_exchange_api"
FLOATS = (torch.float32, torch.float64, torch.bfloat16, torch.float16)


class ExchangeAPI(ctypes.Structure):
    """The C struct behind the capsule."""

    _fields_ = (
        ("major", ctypes.c_uint32),
        ("minor", ctypes.c_uint32),
        ("prev", ctypes.c_void_p),
        ("allocator", ctypes.c_void_p),
        ("from_py_object", ctypes.c_void_p),
        ("to_py_object", ctypes.c_void_p),
        ("dltensor_from_py_object", ctypes.c_void_p),
        ("current_work_stream", ctypes.c_void_p),
    )


def real_api() -> ExchangeAPI:
    if not hasattr(Tensor, ATTRIBUTE):
        pytest.skip("this torch has no DLPack exchange API")
    get = ctypes.pythonapi.PyCapsule_GetPointer
    get.restype, get.argtypes = ctypes.c_void_p, (ctypes.py_object, ctypes.c_char_p)
    return ExchangeAPI.from_address(get(getattr(Tensor, ATTRIBUTE), NAME))


def capsule(api: ExchangeAPI | None, name: bytes = NAME) -> Any:
    new = ctypes.pythonapi.PyCapsule_New
    new.restype = ctypes.py_object
    new.argtypes = (ctypes.c_void_p, ctypes.c_char_p, ctypes.c_void_p)
    return new(ctypes.addressof(api or real_api()), name, None)


def torch_with(**attributes: Any) -> tuple[SimpleNamespace, type[Tensor]]:
    """Return a stand-in for torch whose tensor type has these attributes."""
    kind = type("OtherTensor", (Tensor,), attributes)
    names = ("_C", "nn", "strided", "float32", "float64", "bfloat16", "float16")
    return SimpleNamespace(Tensor=kind, **{name: getattr(torch, name) for name in names}), kind


@pytest.fixture(autouse=True)
def _bound_to_torch_again(native: ModuleType) -> Iterator[None]:
    yield
    native.init(torch)


def step_natively(native: ModuleType, case: Case) -> None:
    plan = native.BlendPlan(*case.plan_arguments())
    plan.set_gradients(case.grads)
    plan.step([case.group], None, None, True, 1)


def test_this_torch_is_read_through_the_api(native: ModuleType) -> None:
    assert real_api().major == 1
    assert native.init(torch) is True
    assert native.init(torch, dlpack=False) is False


@pytest.mark.parametrize("layout", LAYOUTS)
@pytest.mark.parametrize("dtype", FLOATS, ids=str)
def test_both_readers_see_the_same(native: ModuleType, dtype: torch.dtype, layout: str) -> None:
    shapes = [(2, 3, 4), (5,), (), (0, 3), (1, 6), (6, 1), (1,), (1, 1, 1)]
    case = make_case(shapes, dtype, layout=layout, gated=True, momentum=0.5, nesterov=True)
    case = with_group(case, lr=torch.tensor(0.01, dtype=torch.float64))
    other, plain = case.copy(), case.copy()
    native.init(torch)
    step_natively(native, case)
    native.init(torch, dlpack=False)
    step_natively(native, other)
    plain.reference_step()
    assert case.bytes() == other.bytes()
    assert_close(case, plain)


@pytest.mark.parametrize("change", ["bigger-major", "no-function", "major-zero"])
def test_another_major_version_is_not_used(native: ModuleType, change: str) -> None:
    api = ExchangeAPI.from_buffer_copy(real_api())
    api.prev = None
    if change == "no-function":
        api.dltensor_from_py_object = None
    else:
        api.major = 2 if change == "bigger-major" else 0
    stand_in, kind = torch_with(**{ATTRIBUTE: capsule(api)})
    assert native.init(stand_in) is False
    case = make_case(momentum=0.5)
    plain = case.copy()
    for column in case.rows[:7]:
        column[:] = [x.as_subclass(kind) for x in column]
    step_natively(native, case)
    plain.reference_step()
    assert_close(case, plain)


@pytest.mark.parametrize("steps_back", [0, 1, 2])
def test_a_table_of_version_1_is_found_among_older_ones(
    native: ModuleType, steps_back: int
) -> None:
    tables = [ExchangeAPI.from_buffer_copy(real_api())]
    tables[0].minor += 7  # a minor version only adds to the end
    for major in range(2, 2 + steps_back):
        newer = ExchangeAPI(major=major, prev=ctypes.addressof(tables[-1]))
        newer.dltensor_from_py_object = 1  # calling it would crash
        tables.append(newer)
    stand_in, kind = torch_with(**{ATTRIBUTE: capsule(tables[-1])})
    assert native.init(stand_in) is True
    case = make_case(momentum=0.5)
    plain = case.copy()
    for column in case.rows[:7]:
        column[:] = [x.as_subclass(kind) for x in column]
    step_natively(native, case)
    plain.reference_step()
    assert_close(case, plain)


@pytest.mark.parametrize("value", [None, 3, "capsule", object()], ids=repr)
def test_an_attribute_that_is_no_capsule_is_not_used(native: ModuleType, value: Any) -> None:
    assert native.init(torch_with(**{ATTRIBUTE: value})[0]) is False


def test_a_capsule_of_another_name_is_not_used(native: ModuleType) -> None:
    assert native.init(torch_with(**{ATTRIBUTE: capsule(None, b"dltensor")})[0]) is False


def test_a_bad_torch_changes_nothing(native: ModuleType) -> None:
    for bad in (None, SimpleNamespace(), SimpleNamespace(Tensor=5, nn=torch.nn)):
        with pytest.raises((AttributeError, TypeError)):
            native.init(bad)
        case = make_case()
        step_natively(native, case)


def test_before_init_nothing_is_read(native: ModuleType) -> None:
    """In a process where nobody has called init()."""
    script = f"""
        import importlib.util, torch
        spec = importlib.util.spec_from_file_location("_C", {native.__file__!r})
        module = importlib.util.module_from_spec(spec)
        spec.loader.exec_module(module)
        x = [torch.zeros(2)]
        try:
            module.BlendPlan(x, x, x, [None], [None], x, [0], [0], [False])
        except RuntimeError as error:
            assert "before init(torch)" in str(error)
        else:
            raise AssertionError("no error")
    """
    command = [sys.executable, "-c", textwrap.dedent(script)]
    subprocess.run(command, check=True, timeout=120)


class Marked(Tensor):
    """A subclass that only carries a name."""


@pytest.mark.parametrize("kind", ["subclass", "parameter", "buffer"])
def test_subclasses_with_memory_are_read(reading: str, native: ModuleType, kind: str) -> None:
    make = {
        "subclass": lambda x: x.as_subclass(Marked),
        "parameter": torch.nn.Parameter,
        "buffer": torch.nn.Buffer,
    }[kind]
    case, plain = make_case(), make_case()
    case.params = [make(p) for p in case.params]
    step_natively(native, case)
    plain.step()
    for p, q in zip(case.params, plain.params, strict=True):
        assert torch.equal(p.detach().as_subclass(Tensor), q)


def test_lazy_copies_are_made_before_they_are_written(reading: str, native: ModuleType) -> None:
    case = make_case()
    kept = {}
    for name in ("params", "exp_avgs", "exp_avg_sqs"):
        kept[name] = [x.clone() for x in getattr(case, name)]
        setattr(case, name, [torch._lazy_clone(x) for x in kept[name]])
    values = {name: [x.tolist() for x in column] for name, column in kept.items()}
    step_natively(native, case)
    assert {name: [x.tolist() for x in column] for name, column in kept.items()} == values
    assert [p.tolist() for p in case.params] != values["params"]


@pytest.mark.parametrize("transform", ["vmap", "grad", "functionalize"])
def test_tensors_inside_a_function_transform_are_refused(
    reading: str, native: ModuleType, transform: str
) -> None:
    case, seen = make_case([(2, 3)]), []
    before = case.bytes()

    def attempt(x: Tensor) -> Tensor:
        arguments = case.plan_arguments()
        arguments[0] = [x]
        with pytest.raises(ValueError, match=r"params\[0\].* has no memory"):
            native.BlendPlan(*arguments)
        seen.append(x)
        return x.sum()

    x = torch.ones(4, 2, 3) if transform == "vmap" else torch.ones(2, 3)
    getattr(torch.func, transform)(attempt)(x)
    assert len(seen) == 1
    assert case.bytes() == before

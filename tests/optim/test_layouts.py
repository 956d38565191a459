"""Parameters and gradients of every form: layouts, dtypes, empty, 0-d, complex, sparse."""

from __future__ import annotations

from copy import deepcopy

import pytest
import torch
from torch import nn

from .registry import OptimizerInfo, Variant
from .runs import (
    assert_changed,
    assert_same,
    backward,
    derived,
    every_optimizer,
    every_variant,
    make_params,
    record_loss,
    snapshot,
    train,
)


def gapped(x):
    """The same numbers with a foreign one between any two."""
    base = torch.full((*x.shape, 2), 7.0, dtype=x.dtype)
    base[..., 0] = x
    return base[..., 0]


LAYOUTS = {
    "transposed": lambda x: x.transpose(0, -1).contiguous().transpose(0, -1),
    "channels-last": lambda x: x.contiguous(memory_format=torch.channels_last),
    "permuted": lambda x: x.permute(2, 0, 3, 1).contiguous().permute(1, 3, 0, 2),
    "gaps": gapped,
    "slice": lambda x: torch.cat((x, x), 1)[:, : x.shape[1]],
    "size-one-strides": lambda x: x.contiguous().as_strided(x.shape, (60, 20, 4, 1)),
}


@every_variant()
@pytest.mark.parametrize("gradients", ["like-parameter", "contiguous", "expanded"])
@pytest.mark.parametrize("layout", LAYOUTS)
def test_layout_does_not_matter(info: OptimizerInfo, variant: Variant, layout: str, gradients: str):
    twins = make_params([(2, 3, 5, 4), (6,)])
    params = [nn.Parameter(LAYOUTS[layout](twins[0].detach())), deepcopy(twins[1])]
    strides, address = params[0].stride(), params[0].data_ptr()
    ours, theirs = info.make(variant, params), info.make(variant, twins)
    start = [p.detach().clone() for p in params]
    for batch in range(4):
        loss = backward(twins, batch)
        if gradients == "expanded":
            twins[0].grad = twins[0].grad[:1, :, :1].expand(2, 3, 5, 4)
        for p, q in zip(params, twins, strict=True):
            p.grad = q.grad.clone() if gradients != "expanded" else q.grad
            if gradients == "like-parameter":
                p.grad = torch.empty_strided(p.shape, p.stride()).copy_(q.grad)
        for optimizer in (ours, theirs):
            record_loss(optimizer, loss)
            optimizer.step()
    assert_changed(start, params)
    # Sums over all elements, from which a gate takes alpha, may be added up in another order.
    assert_same([p.detach() for p in params], [p.detach() for p in twins], rtol=1e-5, atol=1e-6)
    assert (params[0].stride(), params[0].data_ptr()) == (strides, address)


@every_optimizer()
@pytest.mark.parametrize("layout", ["gaps", "slice"])
def test_memory_between_the_elements_is_not_written(
    info: OptimizerInfo, variant: Variant, layout: str
):
    p = nn.Parameter(LAYOUTS[layout](make_params([(3, 4)])[0].detach()))
    whole = torch.empty(0).set_(p.untyped_storage())
    mine = torch.zeros(whole.shape, dtype=torch.bool)
    mine.as_strided(p.shape, p.stride(), p.storage_offset()).fill_(True)
    before = whole.clone()
    train(info.make(variant, [p]), [p], range(3))
    assert torch.equal(whole[~mine], before[~mine])
    assert not torch.equal(whole[mine], before[mine])


@every_optimizer()
def test_expanded_parameters_are_refused(info: OptimizerInfo, variant: Variant):
    p = nn.Parameter(torch.zeros(3, 1).expand(3, 4))
    with pytest.raises(ValueError, match=r"shape \(3, 4\) .* strides \(1, 0\).*contiguous"):
        info.make(variant, [p])


@every_variant()
def test_parameters_that_become_expanded_are_refused(info: OptimizerInfo, variant: Variant):
    params = make_params()
    optimizer = info.make(variant, params)
    train(optimizer, params, range(2))
    params[0].data = torch.zeros(1, 1).expand(params[0].shape)
    before = snapshot(optimizer, params)
    backward(params, 2)
    with pytest.raises(ValueError, match=r"strides \(0, 0\)"):
        optimizer.step()
    assert_same(snapshot(optimizer, params), before)


@every_variant()
@pytest.mark.parametrize("dtype", [torch.float64, torch.bfloat16, torch.float16], ids=str)
def test_every_dtype_follows_float64(info: OptimizerInfo, variant: Variant, dtype: torch.dtype):
    params = make_params([(7, 5), (2, 3, 4)], dtype=dtype)
    exact = [nn.Parameter(p.detach().double()) for p in params]
    ours, theirs = info.make(variant, params), info.make(variant, exact)
    start = [p.detach().clone() for p in params]
    train(ours, params, range(5))
    train(theirs, exact, range(5))
    assert_changed(start, params)
    for p in params:
        assert p.dtype == dtype
        assert {x.dtype for k, x in ours.state[p].items() if k != "step"} == {dtype}
    tolerance = 0 if dtype == torch.float64 else 8 * torch.finfo(dtype).eps
    assert_same([p.double() for p in params], exact, rtol=tolerance, atol=tolerance)


@every_variant()
def test_mixed_dtypes_in_one_group(info: OptimizerInfo, variant: Variant):
    dtypes = (torch.float32, torch.float64, torch.bfloat16, torch.float16)
    params = [make_params([(9, 3)], dtype=d, seed=i)[0] for i, d in enumerate(dtypes)]
    exact = [nn.Parameter(p.detach().double()) for p in params]
    start = [p.detach().clone() for p in params]
    train(info.make(variant, params), params, range(4))
    train(info.make(variant, exact), exact, range(4))
    assert_changed(start, params)
    assert [p.dtype for p in params] == list(dtypes)
    for p, q in zip(params, exact, strict=True):
        assert_same(p.double(), q, rtol=0.1, atol=0.05)


@every_optimizer()
def test_another_default_dtype_changes_nothing(info: OptimizerInfo, variant: Variant):
    params, twins = make_params(), make_params()
    train(info.make(variant, params), params, range(3))
    torch.set_default_dtype(torch.float64)
    train(info.make(variant, twins), twins, range(3))
    assert_same(params, twins)


@every_variant()
@pytest.mark.parametrize("place", [0, 1, 2])
def test_empty_parameters(info: OptimizerInfo, variant: Variant, place: int):
    shapes = [(4,), (2, 2)]
    shapes.insert(place, (0, 3))
    params = make_params(shapes)
    twins = make_params([(4,), (2, 2)])
    others = [p for p in params if p.numel()]
    with torch.no_grad():
        for p, q in zip(others, twins, strict=True):
            p.copy_(q)
    ours, theirs = info.make(variant, params), info.make(variant, twins)
    for batch in range(4):
        loss = backward(twins, batch)
        for p, q in zip(others, twins, strict=True):
            p.grad = q.grad.clone()
        params[place].grad = torch.zeros(0, 3)
        for optimizer in (ours, theirs):
            record_loss(optimizer, loss)
            optimizer.step()
    if variant.kwargs.get("per_tensor"):  # one more unit has its say in what the gate learns
        assert_same(others, twins, rtol=1e-4, atol=1e-5)
    else:
        assert_same(others, twins)
    assert ours.state[params[place]]["step"] == 4


@every_variant()
def test_nothing_but_empty_parameters(info: OptimizerInfo, variant: Variant):
    params = make_params([(0,), (3, 0)])
    optimizer = info.make(variant, params)
    for _ in range(3):
        for p in params:
            p.grad = torch.zeros_like(p)
        optimizer.step()
    assert all(torch.isfinite(a).all() for a in derived(optimizer))


@every_variant()
def test_complex_parameters_are_pairs(info: OptimizerInfo, variant: Variant):
    generator = torch.Generator().manual_seed(3)
    pairs = [torch.randn(4, 3, 2, generator=generator), torch.randn(5, 2, generator=generator)]
    params = [nn.Parameter(torch.view_as_complex(x.clone())) for x in pairs]
    twins = [nn.Parameter(x.clone()) for x in pairs]
    ours, theirs = info.make(variant, params), info.make(variant, twins)
    for batch in range(4):
        loss = backward(twins, batch)
        for p, q in zip(params, twins, strict=True):
            p.grad = torch.view_as_complex(q.grad.clone())
        for optimizer in (ours, theirs):
            record_loss(optimizer, loss)
            optimizer.step()
        if "held-out" in str(variant.kwargs):
            ours.meta_step()
            theirs.meta_step()
    assert_same([torch.view_as_real(p.detach()) for p in params], [q.detach() for q in twins])
    assert ours.state[params[0]]["exp_avg"].dtype == torch.complex64
    assert_same(derived(ours), derived(theirs))


@every_variant()
def test_lazy_views_are_refused(info: OptimizerInfo, variant: Variant):
    conjugate = nn.Parameter(torch.randn(3, dtype=torch.complex64).conj())
    negated = nn.Parameter(torch.randn(3, dtype=torch.complex64).conj().imag)
    assert conjugate.is_conj()
    assert negated.is_neg()
    for p in (conjugate, negated):
        with pytest.raises(ValueError, match=r"resolve_conj\(\)\.resolve_neg\(\)"):
            info.make(variant, [p])


@every_variant()
def test_lazily_negated_and_conjugated_gradients(info: OptimizerInfo, variant: Variant):
    real, unreal = make_params([(4,)])[0], make_params([(4,)], dtype=torch.complex64)[0]
    z = torch.randn(4, dtype=torch.complex64)
    runs = []
    for resolve in (False, True):
        params = deepcopy([real, unreal])
        optimizer = info.make(variant, params)
        for _ in range(3):
            params[0].grad, params[1].grad = z.conj().imag, z.conj()
            assert params[0].grad.is_neg()
            if resolve:
                params[0].grad = params[0].grad.resolve_neg()
                params[1].grad = params[1].grad.resolve_conj()
            optimizer.step()
        runs.append([p.detach() for p in params])
    assert_same(*runs)


@every_variant()
@pytest.mark.parametrize("steps_before", [0, 2])
def test_sparse_gradients_change_nothing(info: OptimizerInfo, variant: Variant, steps_before: int):
    params, more = make_params(), make_params(seed=2)
    optimizer = info.make(variant, [{"params": more}, {"params": params}])
    everything = [*more, *params]
    train(optimizer, everything, range(steps_before))
    before = snapshot(optimizer, everything)
    backward(everything, 7)
    good = params[0].grad
    params[0].grad = torch.sparse_coo_tensor(
        torch.tensor([[0], [1]]), torch.tensor([1.0]), params[0].shape, check_invariants=True
    )
    with pytest.raises(RuntimeError, match=r"sparse gradients .*torch\.sparse_coo.*SparseAdam"):
        optimizer.step()
    assert_same(snapshot(optimizer, everything), before)

    params[0].grad = good  # it goes on as if nothing had happened
    optimizer.step()
    assert_changed(before["params"], everything)

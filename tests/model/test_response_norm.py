"""Response normalisation against an explicit loop, for two of its implementations."""

import functools
from itertools import product
from pathlib import Path

import pytest
import torch
import torch.nn.functional as F
from torch import Tensor

from alexnet_torch.model import cpu_kernels
from alexnet_torch.model.architecture import PAPER, Norm
from alexnet_torch.model.presets import CAFFE, SOURCE_2012, TENSORFLOW_POST
from alexnet_torch.model.response_norm import response_norm, response_norm_pool
from tests.model.conftest import saved_tensors

LAYOUTS = [torch.contiguous_format, torch.channels_last]
NORMS = [PAPER.norm, SOURCE_2012.norm, CAFFE.norm, TENSORFLOW_POST.norm, Norm(3, 2.0, 0.6, 1.0), Norm(1, 1.0, 0.75)]
SHAPES = [(2, 13, 5, 4), (3, 48, 17, 17), (1, 16, 1, 1), (300, 32, 9, 9), *((2, c, 3, 3) for c in range(1, 7))]
EVERY_NORM = pytest.mark.parametrize("norm", NORMS, ids=str)

pytestmark = pytest.mark.usefixtures("implementation")


def loop_norm(x: Tensor, norm: Norm, relu: bool = False) -> Tensor:
    """The paper's formula, one channel at a time, in float64."""
    x = x.double().clamp_min(0) if relu else x.double()
    out = torch.empty_like(x)
    channels, half = x.shape[1], norm.window // 2
    for i in range(channels):
        total = torch.zeros_like(x[:, 0])
        for j in range(max(0, i - half), min(channels - 1, i + half) + 1):
            total = total + x[:, j] ** 2
        out[:, i] = x[:, i] / (norm.k + norm.alpha / norm.window * total) ** norm.beta
    return out


def norm_and_gradient(x: Tensor, g: Tensor, relu: bool = False) -> list[Tensor]:
    y = response_norm(x, PAPER.norm, relu)
    return [y.detach(), torch.autograd.grad(y, x, g)[0]]


@EVERY_NORM
def test_it_equals_the_loop(norm: Norm) -> None:
    for shape, layout, relu in product(SHAPES, LAYOUTS, (False, True)):
        x = (30 * torch.randn(shape)).to(memory_format=layout)
        y = response_norm(x, norm, relu)
        assert y.is_contiguous(memory_format=layout)
        torch.testing.assert_close(y.double(), loop_norm(x, norm, relu), rtol=1e-6, atol=0)


@EVERY_NORM
def test_its_gradient(norm: Norm) -> None:
    for layout, relu in product(LAYOUTS, (False, True)):
        x = torch.randn(2, 7, 2, 3, dtype=torch.float64).to(memory_format=layout).requires_grad_()
        assert torch.autograd.gradcheck(lambda x, relu=relu: response_norm(x, norm, relu), x)


@pytest.mark.parametrize("layout", LAYOUTS)
def test_the_number_of_threads_and_the_batch_size_change_no_bit(layout: torch.memory_format) -> None:
    x = (30 * torch.randn(32, 48, 27, 27)).to(memory_format=layout).requires_grad_()
    g, threads, found = torch.randn_like(x), torch.get_num_threads(), []
    try:
        for number in (1, 2):
            torch.set_num_threads(number)
            found.append(norm_and_gradient(x, g))
    finally:
        torch.set_num_threads(threads)
    for one, two, part in zip(*found, norm_and_gradient(x[:3], g[:3]), strict=True):
        assert torch.equal(one, two)
        assert torch.equal(one[:3], part)


@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float16])
def test_short_floats_are_normalised_in_32_bits_and_rounded_once(dtype: torch.dtype) -> None:
    x, g = (30 * torch.randn(2, 16, 5, 5)).to(dtype).requires_grad_(), torch.randn(2, 16, 5, 5).to(dtype)
    wide, grad = norm_and_gradient(x.detach().float().requires_grad_(), g.float(), relu=True)
    found = norm_and_gradient(x, g, relu=True)
    assert torch.equal(found[0], wide.to(dtype))
    assert torch.equal(found[1], grad.to(dtype))
    y = response_norm(x, PAPER.norm, relu=True)
    again = torch.autograd.grad(y, x, g, create_graph=True)[0]  # by torch's own operations, which round elsewhere
    torch.testing.assert_close(again, grad.to(dtype), rtol=torch.finfo(dtype).eps, atol=1e-6)


def test_nan_stays_nan_and_strided_maps_and_empty_batches_are_taken() -> None:
    x = torch.randn(1, 8, 2, 2)
    x[0, 3, 0, 0] = torch.nan
    y = response_norm(x, PAPER.norm, relu=True)
    assert y[0, 1:6, 0, 0].isnan().tolist() == [True] * 5
    assert not y[0, :, 1, 1].isnan().any()
    x = torch.randn(2, 16, 6, 8)[..., ::2]
    torch.testing.assert_close(response_norm(x, PAPER.norm), response_norm(x.contiguous(), PAPER.norm))
    assert response_norm(torch.empty(0, 16, 3, 3), PAPER.norm).shape == (0, 16, 3, 3)


def test_without_a_compiler_it_prints_so_once_and_still_works(
    implementation: str, monkeypatch: pytest.MonkeyPatch, tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    if implementation == "eager":
        pytest.skip("the same for both implementations")
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path))
    monkeypatch.setattr(cpu_kernels, "_load", functools.cache(cpu_kernels._load.__wrapped__))
    monkeypatch.setenv("CXX", "no-such-compiler")
    x, norm = 30 * torch.randn(1, 8, 2, 2), PAPER.norm
    for _ in range(2):
        torch.testing.assert_close(response_norm(x, norm).double(), loop_norm(x, norm), rtol=1e-6, atol=0)
    (line,) = (text for text in caplog.messages if "response normalisation and dropout are not compiled" in text)
    assert "no-such-compiler" in line


@pytest.mark.parametrize("shape", [(2, 6, 8, 8), (2, 5, 7, 7), (1, 3, 200, 200)], ids=str)
def test_with_pooling_it_equals_norm_then_pooling(shape: tuple[int, ...]) -> None:
    for layout, relu, ceil in product(LAYOUTS, (False, True), (False, True)):
        x = (30 * torch.randn(shape, dtype=torch.float64)).to(memory_format=layout).requires_grad_()
        ours = response_norm_pool(x, PAPER.norm, relu, 3, 2, ceil)
        theirs = F.max_pool2d(response_norm(x, PAPER.norm, relu), 3, 2, ceil_mode=ceil)
        assert torch.equal(ours, theirs)
        assert ours.is_contiguous(memory_format=layout)
        g = torch.randn_like(theirs)
        assert torch.equal(*(torch.autograd.grad(y, x, g)[0] for y in (ours, theirs)))


def test_it_saves_only_its_input_and_with_pooling_the_places_of_the_maxima() -> None:
    x = torch.randn(2, 8, 9, 9, requires_grad=True)
    for relu in (False, True):
        with saved_tensors() as saved:
            response_norm(x, PAPER.norm, relu)
        assert [t.data_ptr() for t in saved] == [x.data_ptr()]
    with saved_tensors() as saved:
        response_norm_pool(x, PAPER.norm, True, 3, 2, False)
    assert [(t.data_ptr() == x.data_ptr(), t.dtype) for t in saved] == [(True, torch.float32), (False, torch.int16)]


@pytest.mark.slow
def test_it_compiles_as_a_part_of_the_code_around_it() -> None:
    x = (30 * torch.randn(2, 16, 5, 5)).requires_grad_()
    plain = response_norm(2 * x, PAPER.norm, relu=True).sin()
    compiled = torch.compile(lambda x: response_norm(2 * x, PAPER.norm, relu=True).sin(), fullgraph=True)(x)
    torch.testing.assert_close(compiled, plain)
    torch.testing.assert_close(*(torch.autograd.grad(y.sum(), x)[0] for y in (plain, compiled)))


def test_the_compiled_operators_refuse_what_would_read_past_the_end(implementation: str) -> None:
    if implementation == "eager":
        pytest.skip("torch's operations check by themselves")
    x, operators = torch.randn(2, 8, 3, 3), torch.ops.alexnet_torch
    with pytest.raises(RuntimeError, match="window must be odd"):
        operators.norm(x, -4, 1e-4, 0.75, 2.0, False)
    with pytest.raises(RuntimeError, match=r"x must be \(N, C, H, W\)"):
        operators.norm(x[0], 5, 1e-4, 0.75, 2.0, False)
    for grad in (x[:1], x.double()):
        with pytest.raises(RuntimeError, match="grad must be of the shape and type of x"):
            operators.norm_backward(grad, x, 5, 1e-4, 0.75, 2.0, False)

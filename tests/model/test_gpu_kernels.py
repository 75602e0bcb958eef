"""The kernels for GPUs, in Triton: what they compute, by its interpreter, which takes milliseconds for each block."""

from collections.abc import Callable
from concurrent.futures import Executor
from itertools import product

import numpy as np
import pytest
import torch
import torch.nn.functional as F
from torch import Tensor

from alexnet_torch.data.augment import _subtract_per_image, random_crops, subtract_mean
from alexnet_torch.model.architecture import PAPER, Norm
from alexnet_torch.model.dropout import MaskPosition, dropout, dropout_mask
from alexnet_torch.model.response_norm import response_norm, response_norm_pool

NORMS = [PAPER.norm, Norm(3, 2.0, 0.6, 1.0), Norm(11, 11.0, 0.5), Norm(1, 1.0, 0.75)]
LAYOUTS = (torch.contiguous_format, torch.channels_last)


def maps(shape: tuple[int, ...], layout: torch.memory_format) -> Tensor:
    return (30 * torch.randn(shape)).to(memory_format=layout)


def normalise() -> None:
    """Against torch's own norm in float64. Tolerances: a few roundings of float32."""
    torch.manual_seed(0)
    for number, (norm, layout) in enumerate(product(NORMS, LAYOUTS)):
        x, relu = maps((2, 21, 3, 2), layout), number % 4 in (0, 3)  # each layout with and without ReLU
        exact = x.double().requires_grad_()
        read = F.relu(exact) if relu else exact
        expected = F.local_response_norm(read, norm.window, norm.alpha, norm.beta, norm.k)
        g = torch.randn_like(x)
        gradient = torch.autograd.grad(expected, exact, g.double())[0]
        for dtype, tolerance in ((torch.float32, 1e-6), (torch.float64, 1e-12)):
            given = x.to(dtype).requires_grad_()
            y = response_norm(given, norm, relu)
            assert y.is_contiguous(memory_format=layout)
            torch.testing.assert_close(y.double(), expected, rtol=tolerance, atol=0)
            found = torch.autograd.grad(y, given, g.to(dtype))[0].double()
            assert (found - gradient).abs().max() <= 5 * tolerance * gradient.abs().max(), (norm, relu)


def normalise_and_pool() -> None:
    x = maps((2, 8, 9, 9), torch.channels_last).requires_grad_()
    y = response_norm_pool(x, PAPER.norm, True, 3, 2, False)
    expected = F.max_pool2d(response_norm(x, PAPER.norm, True), 3, 2)
    assert torch.equal(y, expected)
    g = torch.randn_like(y)
    assert torch.equal(*(torch.autograd.grad(value, x, g)[0] for value in (y, expected)))
    half = x.detach().half()  # computed in 32 bits
    wide = response_norm(half.float(), PAPER.norm)
    torch.testing.assert_close(response_norm(half, PAPER.norm), wide.half(), rtol=1e-3, atol=0)
    assert response_norm(torch.empty(0, 8, 3, 3), PAPER.norm).shape == (0, 8, 3, 3)


def drop() -> None:
    """To the bit: masks are the same on every device."""
    torch.manual_seed(0)
    for dtype, rate, relu in product((torch.float32, torch.float64, torch.float16), (0.3, 0.5), (False, True)):
        x, g = torch.randn(2, 3, 700).to(dtype).requires_grad_(), torch.randn(2, 3, 700).to(dtype)
        where = MaskPosition(rate, torch.tensor(123456789012345678), 3_000_000_000, 11)
        expected = (F.relu(x) if relu else x) * dropout_mask(x.shape, *where) * (1 / (1 - rate))
        y = dropout(x, where, relu)
        assert torch.equal(y, expected)
        assert torch.equal(*(torch.autograd.grad(value, x, g)[0] for value in (y, expected)))
    lost = dropout(torch.tensor([[torch.nan, torch.inf] * 8]), where, relu=True)
    assert lost[0, ::2].isnan().all(), "a run must see a NaN"


def subtract() -> None:
    """To the bit: a run's images are the same on every device."""
    from alexnet_torch.data import triton_pixels  # in the process of the fixture

    random = np.random.default_rng(1)
    crops = random_crops(3, 25, 20, 0, 0, True)
    pixels = torch.from_numpy(random.integers(0, 256, (3, 20, 20, 3), np.uint8))
    for dtype in (torch.float32, torch.float64):
        mean = (torch.rand(25, 25, 3) * 255).to(dtype)
        for noise, scale in ((None, 1.0), (torch.randn(3, 3).to(dtype), 1 / 1.1)):
            positions = torch.from_numpy(crops.positions())
            found = triton_pixels.subtract(pixels, positions, mean, noise, scale)
            assert torch.equal(found, _subtract_per_image(pixels, crops, mean, noise, scale))
    assert subtract_mean(pixels[:0], crops[np.arange(0)], mean).shape == (0, 3, 20, 20)


@pytest.mark.parametrize("check", [normalise, normalise_and_pool, drop, subtract], ids=lambda check: check.__name__)
def test_by_the_interpreter(check: Callable[[], None], interpreter_process: Executor) -> None:
    interpreter_process.submit(check).result()

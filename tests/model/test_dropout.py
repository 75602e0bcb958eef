"""Dropout: its masks are a hash of (key, row, element), and every implementation computes the same bits."""

import math

import pytest
import torch
import torch.nn.functional as F
from torch import Tensor

from alexnet_torch.model.dropout import MaskPosition, dropout, dropout_mask
from tests.model.conftest import saved_tensors

KEY = 123456789012345678


def mask(rows: int = 512, width: int = 2048, rate: float = 0.5, key: int = KEY, first: int = 0) -> Tensor:
    return dropout_mask(torch.Size((rows, width)), rate, torch.tensor(key), first)


def position(rate: float = 0.5, first_row: int = 0, first_element: int = 0) -> MaskPosition:
    return MaskPosition(rate, torch.tensor(KEY), first_row, first_element)


def test_dropout_keeps_the_given_fraction_and_rows_columns_and_keys_are_independent() -> None:
    for rate in (0.0, 0.1, 0.5, 0.9):
        deviation = math.sqrt(rate * (1 - rate) / (512 * 2048))
        assert abs(mask(rate=rate).double().mean().item() - (1 - rate)) <= 5 * deviation
    a = mask().double() - 0.5
    five_sigma = 5 * 0.25 / math.sqrt(a.numel())
    for b in (mask(key=KEY + 1), mask(key=KEY ^ (1 << 50)), mask(first=512)):
        assert abs((a * (b.double() - 0.5)).mean().item()) < five_sigma
    for shift in (1, 2, 64):
        assert abs((a[shift:] * a[:-shift]).mean().item()) < five_sigma * 1.2
        assert abs((a[:, shift:] * a[:, :-shift]).mean().item()) < five_sigma * 1.2
    # every row and every column: five sigma, for 2,560 of them
    assert (a.mean(1).abs() < 5 * 0.5 / math.sqrt(2048)).all()
    assert (a.mean(0).abs() < 5 * 0.5 / math.sqrt(512)).all()


def test_the_mask_is_what_it_was_in_version_0_1() -> None:
    """The first bits, as plain integers say them: a run of an earlier version resumes with the same masks."""

    def mix(bits: int) -> int:
        bits = ((bits ^ (bits >> 16)) * 0x7FEB352D) % 2**32
        bits = ((bits ^ (bits >> 15)) * 0x846CA68B) % 2**32
        return bits ^ (bits >> 16)

    def kept(row: int, element: int) -> bool:
        row_bits = mix((mix(row ^ KEY % 2**32) + (KEY >> 32)) % 2**32)
        return mix(mix(element) ^ row_bits) >= 2**32 * 3 // 10

    drawn = dropout_mask(torch.Size((6, 40)), 0.3, torch.tensor(KEY), 1000, 77)
    assert drawn.tolist() == [[kept(1000 + row, 77 + element) for element in range(40)] for row in range(6)]


@pytest.mark.usefixtures("implementation")
@pytest.mark.parametrize("dtype", [torch.float32, torch.float64, torch.bfloat16, torch.float16])
@pytest.mark.parametrize("rate", [0.3, 0.5])
@pytest.mark.parametrize("relu", [False, True])
def test_it_is_the_masked_input_and_so_is_its_gradient_to_the_bit(dtype: torch.dtype, rate: float, relu: bool) -> None:
    x = torch.randn(70, 3, 41).to(dtype)
    x[0, 0, :2] = torch.tensor([math.nan, math.inf])  # which a run must see
    given, g, where = x.requires_grad_(), torch.randn(70, 3, 41).to(dtype), position(rate, 5, 11)
    expected = (F.relu(x) if relu else x) * dropout_mask(x.shape, *where) * (1 / (1 - rate))
    y = dropout(given, where, relu)
    assert y.dtype == dtype
    assert torch.equal(y.nan_to_num(7), expected.nan_to_num(7))
    grads = [torch.autograd.grad(value, given, g)[0][1:] for value in (y, expected)]
    assert torch.equal(*grads)


@pytest.mark.usefixtures("implementation")
@pytest.mark.parametrize("relu", [False, True])
def test_second_derivatives_and_transforms(relu: bool) -> None:
    x, where = torch.randn(4, 6, dtype=torch.float64), position()
    assert torch.autograd.gradgradcheck(lambda x: dropout(x * x, where, relu).sin(), x.requires_grad_())
    expected = (F.relu(x) if relu else x) * dropout_mask(x.shape, *where) * 2
    batched = torch.func.vmap(lambda x: dropout(x, where, relu))(torch.stack([x, x]))
    torch.testing.assert_close(batched, torch.stack([expected, expected]))


def test_it_keeps_nothing_but_its_result() -> None:
    x = torch.randn(4, 6, requires_grad=True)
    with saved_tensors() as saved:
        y = dropout(x, position(), relu=True)
        assert [t.data_ptr() for t in saved] == [y.data_ptr()]
        dropout(x, position())
        assert len(saved) == 1
    assert dropout(torch.empty(0, 6), position()).shape == (0, 6)
    strided = torch.randn(3, 4, 5, 6).to(memory_format=torch.channels_last)
    assert torch.equal(dropout(strided, position()), dropout(strided.contiguous(), position()))

"""The predictions of benchmarks.harness.traffic and benchmarks.parallel.advice, against figures computed by hand."""

from dataclasses import replace

import pytest

from alexnet_torch.model.architecture import PAPER
from alexnet_torch.recipes.recipe import never_meet
from benchmarks.harness.traffic import bytes_sent, parameter_counts, ring_bytes
from benchmarks.parallel.advice import LINEAR_FRACTION, Machine, step_time

CONVS = 2_334_080


def test_batch_slices_send_gradients_in_a_ring() -> None:
    assert parameter_counts(PAPER, 1000, 224) == (CONVS, 60_965_224 - CONVS)
    assert bytes_sent("none", 2, 128, PAPER) == {"gradients": 4 * 60_965_224}
    assert bytes_sent("none", 1, 128, PAPER) == {"gradients": 0}
    assert ring_bytes(1, 4) == 6


def test_tower_ranks_send_half_of_the_exchanged_values_and_of_their_gradients() -> None:
    values = 128 * 13 * 13 + 4608 + 2048 + 2048  # before conv3, fc6, fc7, fc8
    expected = 4 * 128 * (2 * values + 500)  # no gradient of the logits comes back
    assert bytes_sent("ranks", 2, 128, PAPER) == {"activations": expected, "gradients": 0}
    assert bytes_sent("ranks", 4, 128, PAPER) == {"activations": expected / 2, "gradients": 4 * 60_965_224 / 2}
    assert bytes_sent("ranks", 2, 128, never_meet(PAPER))["activations"] == 4 * 128 * (2 * 2048 + 500)


def test_hybrid_sends_no_gradient_of_linear_stages() -> None:
    activations = 4 * 128 / 2 * (2 * 9216 + 2 * (4096 + 4096) + 1000)
    assert bytes_sent("hybrid", 2, 128, PAPER) == {"activations": activations, "gradients": 4 * CONVS}


def test_step_time_adds_computation_exchanges_and_sums() -> None:
    free = Machine(image_time=1e-3, parameter_time=0, exchange_rate=1e30, sum_rate=1e30, overlaps=False)
    for split in ("none", "ranks", "hybrid"):
        assert step_time(split, 4, 128, free) == pytest.approx(0.032)
    slow = replace(free, sum_rate=1e9)
    assert step_time("none", 2, 128, slow) == pytest.approx(0.064 + 4 * 60_965_224 / 1e9)
    overlapping = replace(slow, overlaps=True)
    saved = step_time("none", 2, 128, slow) - step_time("none", 2, 128, overlapping)
    assert saved == pytest.approx(2 / 3 * (1 - LINEAR_FRACTION) * 0.064)

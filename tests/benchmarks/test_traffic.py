"""What benchmarks.parallel.traffic and benchmarks.parallel.advice predict, against figures worked out by hand."""

from dataclasses import replace

import pytest

from alexnet_torch.model.architecture import PAPER
from alexnet_torch.recipes.ablations import never_meet
from benchmarks.parallel.advice import LINEAR_SHARE, Machine, step_time
from benchmarks.parallel.traffic import ring, sent, weights

CONVS, LINEARS = 2_334_080, 58_631_144


def test_weights_of_the_paper() -> None:
    assert weights(PAPER, 1000, 224) == (CONVS, LINEARS)
    assert sum(weights(PAPER, 1000, 224)) == 60_965_224


def test_batch_slices_send_gradients_in_a_ring() -> None:
    assert sent("none", 2, 128, PAPER) == {"gradients": 4 * 60_965_224}
    assert sent("none", 1, 128, PAPER) == {"gradients": 0}
    assert ring(1, 4) == 6


def test_tower_ranks_send_half_of_what_stages_join_there_and_back() -> None:
    there = 128 * 13 * 13 + 4608 + 2048 + 2048  # before conv3, fc6, fc7, fc8
    expected = 4 * 128 * (2 * there + 500)  # of the logits no gradient comes back
    assert sent("ranks", 2, 128, PAPER) == {"activations": expected, "gradients": 0}
    both = sent("ranks", 4, 128, PAPER)
    assert both == {"activations": expected / 2, "gradients": 4 * 60_965_224 / 2}
    assert sent("ranks", 2, 128, never_meet(PAPER))["activations"] == 4 * 128 * (2 * 2048 + 500)


def test_hybrid_sends_no_gradient_of_linear_stages() -> None:
    activations = 4 * 128 / 2 * (2 * 9216 + 2 * (4096 + 4096) + 1000)
    assert sent("hybrid", 2, 128, PAPER) == {"activations": activations, "gradients": 4 * CONVS}


def test_the_model_adds_what_it_is_given() -> None:
    free = Machine(image=1e-3, parameter=0, activations=1e30, gradients=1e30, hidden=False)
    for split in ("none", "ranks", "hybrid"):
        assert step_time(split, 4, 128, free) == pytest.approx(0.032)
    slow = replace(free, gradients=1e9)
    assert step_time("none", 2, 128, slow) == pytest.approx(0.064 + 4 * 60_965_224 / 1e9)
    hidden = replace(slow, hidden=True)
    saved = step_time("none", 2, 128, slow) - step_time("none", 2, 128, hidden)
    assert saved == pytest.approx(2 / 3 * (1 - LINEAR_SHARE) * 0.064)

"""What a step reads arrives in two transfers, and is what arrives in many."""

from concurrent.futures import Executor

import numpy as np
import pytest
import torch

from alexnet_torch.data.augment import random_crops, subtract_mean
from alexnet_torch.data.loader import Batch
from alexnet_torch.training.step import step_inputs

MEAN = torch.linspace(0, 255, 73 * 73 * 3).view(73, 73, 3)
KEYS = torch.tensor([[1 << 61, 5], [7, 0]])


def batch(noise: bool) -> Batch:
    """Five crops of 64 pixels, their number odd, so that not every part ends at a multiple of 8 bytes."""
    pixels = torch.randint(0, 256, (5, 64, 64, 3), dtype=torch.uint8, generator=torch.Generator().manual_seed(0))
    crops = random_crops(5, 73, 64, 0, 0, True)
    colour = torch.linspace(-20, 20, 15).view(5, 3) if noise else None
    return Batch(pixels, torch.arange(5) * 100, crops, np.arange(5), 0, 5, colour, 0.9 if noise else 1.0)


def send_to_the_device() -> None:
    from tests.support import pretend_device as pretend  # in the process of the fixture

    for noise in (False, True):
        given = batch(noise)
        expected = subtract_mean(given.images, given.crops, MEAN, given.pca_noise, given.scale)
        mean = MEAN.to(pretend.DEVICE)
        pretend.COPIES.clear()
        images, labels, keys = step_inputs(given, KEYS, mean)
        assert len(pretend.COPIES) == 2
        assert images.device == labels.device == keys.device == pretend.DEVICE
        assert torch.equal(images.cpu(), expected)
        assert torch.equal(labels.cpu(), given.labels)
        assert torch.equal(keys.cpu(), KEYS)


def test_a_device_gets_two_transfers(pretend_process: Executor) -> None:
    pretend_process.submit(send_to_the_device).result()


@pytest.mark.parametrize("noise", [False, True])
def test_on_the_cpu_nothing_is_copied(noise: bool) -> None:
    given = batch(noise)
    images, labels, keys = step_inputs(given, KEYS, MEAN)
    assert torch.equal(images, subtract_mean(given.images, given.crops, MEAN, given.pca_noise, given.scale))
    assert labels.data_ptr() == given.labels.data_ptr()
    assert keys.data_ptr() == KEYS.data_ptr()

from collections.abc import Callable
from typing import Any

import numpy as np
import pytest
import torch

from alexnet_torch.data.augment import (
    Crops,
    _subtract_per_batch,
    centre_crops,
    copy_crop,
    random_crops,
    subtract_mean,
)


def test_crops_are_a_function_of_seed_epoch_and_sample() -> None:
    def flat(seed: int, epoch: int) -> list[list[int]]:
        crops = random_crops(50, 73, 64, seed, epoch, True)
        return [crops.top.tolist(), crops.left.tolist(), crops.mirrored.tolist()]

    assert flat(1, 2) == flat(1, 2)
    assert flat(1, 2) != flat(1, 3)
    assert flat(1, 2) != flat(2, 2)
    assert flat(1, 2)[0] != flat(1, 2)[1]


def test_every_position_and_both_mirrors_are_equally_likely() -> None:
    n = 100_000
    crops = random_crops(n, 73, 64, 0, 0, True)
    for values in (crops.top, crops.left):
        counts = np.bincount(values, minlength=10)
        assert len(counts) == 10
        assert np.abs(counts - n / 10).max() < 5 * np.sqrt(n / 10)
    assert abs(crops.mirrored.mean() - 0.5) < 5 * 0.5 / np.sqrt(n)
    assert abs(np.corrcoef(crops.top, crops.left)[0, 1]) < 5 / np.sqrt(n)
    assert abs(np.corrcoef(crops.top, crops.mirrored)[0, 1]) < 5 / np.sqrt(n)
    assert not random_crops(99, 73, 64, 0, 0, False).mirrored.any()


def test_centre_crops() -> None:
    crops = centre_crops(3, 256, 224)
    assert crops.top.tolist() == crops.left.tolist() == [16] * 3
    assert not crops.mirrored.any()
    assert not random_crops(10, 64, 64, 0, 0, True).top.any()  # of the full size


def crops_of(images: np.ndarray, size: int, crops: Crops) -> torch.Tensor:
    batch = torch.empty((len(images), size, size, 3), dtype=torch.uint8)
    for i, image in enumerate(images):
        copy_crop(image, crops.top[i], crops.left[i], bool(crops.mirrored[i]), batch[i])
    return batch


def subtract_per_batch(images: torch.Tensor, crops: Crops, *others: Any) -> torch.Tensor:
    return _subtract_per_batch(images, torch.from_numpy(crops.positions()), *others)


def random_images(random: np.random.Generator) -> tuple[np.ndarray, np.ndarray, Crops]:
    """Returns six images (12, 12, 3), a mean image, and crops of 9 pixels."""
    images = random.integers(0, 256, (6, 12, 12, 3), np.uint8)
    mean = random.uniform(0, 255, (12, 12, 3))
    return images, mean, Crops(np.arange(6) % 4, np.array([0, 3, 1, 2, 3, 0]), np.arange(6) % 2 == 1)


@pytest.mark.parametrize("subtract", [subtract_mean, subtract_per_batch])
@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
@pytest.mark.parametrize("scale", [1.0, 0.5])
@pytest.mark.parametrize("with_noise", [False, True])
def test_the_mean_is_cropped_and_mirrored_as_the_image(
    subtract: Callable[..., torch.Tensor], dtype: torch.dtype, scale: float, with_noise: bool
) -> None:
    random = np.random.default_rng(0)
    images, mean, crops = random_images(random)
    noise = random.normal(0, 10, (6, 3)) if with_noise else np.zeros((6, 3))
    noise_tensor = torch.from_numpy(noise).to(dtype) if with_noise else None
    batch = subtract(crops_of(images, 9, crops), crops, torch.from_numpy(mean).to(dtype), noise_tensor, scale)
    if subtract is subtract_mean:
        assert batch.shape == (6, 3, 9, 9)
        assert batch.is_contiguous(memory_format=torch.channels_last)
        batch = batch.permute(0, 2, 3, 1)
    assert batch.dtype == dtype
    for i in range(6):
        # subtract, then crop, then mirror: another order must give the same
        full_image = (images[i] - mean + noise[i]) * scale
        expected = full_image[crops.top[i] :][:9, crops.left[i] :][:, :9]
        if crops.mirrored[i]:
            expected = expected[:, ::-1]
        np.testing.assert_allclose(batch[i].numpy(), expected, rtol=1e-5, atol=1e-4)


def test_both_ways_to_subtract_give_the_same_bits() -> None:
    random = np.random.default_rng(1)
    images = random.integers(0, 256, (40, 73, 73, 3), np.uint8)
    crops = random_crops(40, 73, 64, 0, 0, True)
    mean = torch.rand(73, 73, 3) * 255
    batch = crops_of(images, 64, crops)
    for noise, scale in ((None, 1.0), (torch.randn(40, 3), 0.25)):
        per_image = subtract_mean(batch, crops, mean, noise, scale).permute(0, 2, 3, 1)
        assert subtract_per_batch(batch, crops, mean, noise, scale).equal(per_image)

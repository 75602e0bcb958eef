from collections.abc import Callable
from typing import Any, get_args

import numpy as np
import pytest
import torch

from alexnet_torch.data.augment import (
    Crops,
    _subtract_per_batch,
    centre_crops,
    random_crops,
    subtract_mean,
)
from alexnet_torch.data.cache import PreparedImages
from alexnet_torch.data.loader import Loader
from alexnet_torch.data.pca_noise import Convention, PCANoise


def covariance() -> np.ndarray:
    mix = np.random.default_rng(0).normal(0, 60, (3, 3))
    return np.asarray(mix @ mix.T)


def test_crops_and_noise_are_functions_of_seed_epoch_and_sample() -> None:
    def drawn(seed: int, epoch: int) -> list[list[float]]:
        noise = PCANoise().draw(50, covariance(), seed, epoch)
        return [random_crops(50, 73, 64, seed, epoch, True).positions().tolist(), noise.tolist()]

    assert drawn(1, 2) == drawn(1, 2)
    for other in (drawn(1, 3), drawn(2, 2)):
        assert all(x != y for x, y in zip(drawn(1, 2), other, strict=True))
    assert len(np.unique(drawn(1, 2)[1])) == 150


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


def crops_of(images: np.ndarray, size: int, crops: Crops) -> torch.Tensor:
    cut = [image[top:, left:][:size, :size] for image, top, left in zip(images, crops.top, crops.left, strict=True)]
    return torch.from_numpy(
        np.stack([each[:, ::-1] if mirrored else each for each, mirrored in zip(cut, crops.mirrored, strict=True)])
    )


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


def test_noise_varies_along_the_eigenvectors_by_convention() -> None:
    """P diag(l^2) P^T = C C and P diag(l) P^T = C give the noise's covariance without eigenvectors."""
    c = covariance()
    in_unit_range = c / 255**2  # of pixels in [0, 1]
    expected: dict[Convention, np.ndarray] = {
        "paper": 0.1**2 * in_unit_range @ in_unit_range * 255**2,  # then back to 0..255
        "source": 0.1**2 * c,
    }
    for convention, noise_covariance in expected.items():
        components = PCANoise(convention).components(c)
        np.testing.assert_allclose(0.1**2 * components @ components.T, noise_covariance, rtol=1e-9, atol=1e-9)
        noise = PCANoise(convention).draw(200_000, c, 0, 0)
        assert noise.dtype == np.float32
        deviations = np.sqrt(noise_covariance.diagonal())
        error = (np.cov(noise.T) - noise_covariance) / np.outer(deviations, deviations)
        assert np.abs(error).max() < 0.02  # 6 standard errors
        assert np.abs(noise.mean(0) / deviations).max() < 0.015


def test_the_papers_strength_on_imagenets_published_eigenvalues() -> None:
    """0.2175, 0.0188, 0.0045 for pixels in [0, 1], as published: in 0..255, 55, 5 and 1 for a_i = 1."""
    c = np.diag([0.2175, 0.0188, 0.0045]) * 255**2
    paper, source = (np.sort(np.abs(PCANoise(name).components(c)).sum(0)) for name in get_args(Convention))
    assert paper == pytest.approx([1.1475, 4.794, 55.4625])
    assert source == pytest.approx([17.106, 34.964, 118.924], rel=1e-4)


def test_grey_images_stay_grey() -> None:
    noise = PCANoise("source").draw(50, np.full((3, 3), 4000.0), 0, 0)
    np.testing.assert_allclose(noise, np.repeat(noise[:, :1], 3, 1), atol=1e-4)
    assert np.abs(noise).max() > 1


def test_the_loader_gives_each_image_its_own_noise_only_in_training(prepared: PreparedImages) -> None:
    colour = PCANoise("source", until=2)
    noise_of_samples = colour.draw(27, prepared.covariance, 3, 1)
    for batch_size in (8, 5):
        loader = Loader(prepared, "train", 20, batch_size, seed=3, colour=colour)
        for batch in [*loader.epoch(1), *loader.epoch(1, 2)]:
            assert batch.pca_noise is not None
            assert np.array_equal(batch.pca_noise.numpy(), noise_of_samples[batch.indices])
            assert batch.scale == 1 / 1.1
    for without_noise in (
        Loader(prepared, "train", 20, 8, seed=3, colour=colour).epoch(2),
        Loader(prepared, "val", 20, 8, seed=3, colour=colour).epoch(0),
        Loader(prepared, "train", 20, 8, seed=3).epoch(0),
    ):
        assert all(batch.pca_noise is None and batch.scale == 1 for batch in without_noise)
    assert all(b.scale == 1 for b in Loader(prepared, "train", 20, 8, colour=PCANoise("paper")).epoch(0))


def test_errors_name_the_wrong_setting() -> None:
    with pytest.raises(ValueError, match=r"PCANoise\.std must be positive, not 0"):
        PCANoise(std=0)
    with pytest.raises(ValueError, match=r"PCANoise\.convention must be one of .*'paper', 'source'.*not 'none'"):
        PCANoise("none")  # type: ignore[arg-type]

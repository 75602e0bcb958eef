from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
import torch

from alexnet_torch.data.augment import centre_crops, subtract_mean
from alexnet_torch.data.colour import ColourNoise, Convention
from alexnet_torch.data.loader import Loader
from alexnet_torch.data.prepare import prepare
from alexnet_torch.data.prepared_images import PreparedImages


@pytest.fixture
def prepared(tmp_path: Path, image_folder: Callable[..., Path]) -> PreparedImages:
    return prepare(image_folder(tmp_path / "images", train=9, val=5), 24, announce=lambda _: None)


def covariance() -> np.ndarray:
    mix = np.random.default_rng(0).normal(0, 60, (3, 3))
    return np.asarray(mix @ mix.T)


def test_shifts_vary_along_the_eigenvectors_by_convention() -> None:
    """P diag(l^2) P^T = C C and P diag(l) P^T = C: what the noise's covariance is needs no eigenvectors."""
    c = covariance()
    in_unit_range = c / 255**2  # of pixels in [0, 1]
    expected: dict[Convention, np.ndarray] = {
        "paper": 0.1**2 * in_unit_range @ in_unit_range * 255**2,  # then back to 0..255
        "source": 0.1**2 * c,
    }
    for convention, noise in expected.items():
        axes = ColourNoise(convention).axes(c)
        np.testing.assert_allclose(0.1**2 * axes @ axes.T, noise, rtol=1e-9, atol=1e-9)
        shifts = ColourNoise(convention).shifts(200_000, c, 0, 0)
        assert shifts.dtype == np.float32
        scale = np.sqrt(np.outer(noise.diagonal(), noise.diagonal()))
        assert np.abs((np.cov(shifts.T) - noise) / scale).max() < 0.02  # 6 standard errors
        assert np.abs(shifts.mean(0) / np.sqrt(noise.diagonal())).max() < 0.015


def test_the_papers_strength_is_that_of_imagenets_published_eigenvalues() -> None:
    """0.2175, 0.0188, 0.0045 for pixels in [0, 1], as published: in 0..255, 55, 5 and 1 for a_i = 1."""
    c = np.diag([0.2175, 0.0188, 0.0045]) * 255**2
    assert np.sort(np.abs(ColourNoise("paper").axes(c)).sum(0)) == pytest.approx([1.1475, 4.794, 55.4625])
    assert np.sort(np.abs(ColourNoise("source").axes(c)).sum(0)) == pytest.approx([17.106, 34.964, 118.924], rel=1e-4)


def test_shifts_are_a_function_of_seed_epoch_and_sample() -> None:
    def shifts(seed: int, epoch: int) -> np.ndarray:
        return ColourNoise().shifts(40, covariance(), seed, epoch)

    assert np.array_equal(shifts(1, 2), shifts(1, 2))
    assert not np.isclose(shifts(1, 2), shifts(1, 3)).any()
    assert not np.isclose(shifts(1, 2), shifts(2, 2)).any()
    assert len(np.unique(shifts(1, 2))) == 120


def test_grey_images_stay_grey() -> None:
    shifts = ColourNoise("source").shifts(50, np.full((3, 3), 4000.0), 0, 0)
    np.testing.assert_allclose(shifts, np.repeat(shifts[:, :1], 3, 1), atol=1e-4)
    assert np.abs(shifts).max() > 1


def test_the_loader_gives_each_image_its_own_noise_in_training_alone(prepared: PreparedImages) -> None:
    colour = ColourNoise("source", until=2)
    whole = colour.shifts(27, prepared.covariance, 3, 1)
    for batch_size in (8, 5):
        loader = Loader(prepared, "train", 20, batch_size, seed=3, colour=colour)
        for batch in [*loader.epoch(1), *loader.epoch(1, 2)]:
            assert batch.colour_noise is not None
            assert np.array_equal(batch.colour_noise.numpy(), whole[batch.indices])
            assert batch.scale == 1 / 1.1
    for off in (
        Loader(prepared, "train", 20, 8, seed=3, colour=colour).epoch(2),
        Loader(prepared, "val", 20, 8, seed=3, colour=colour).epoch(0),
        Loader(prepared, "train", 20, 8, seed=3).epoch(0),
    ):
        assert all(batch.colour_noise is None and batch.scale == 1 for batch in off)
    assert all(b.scale == 1 for b in Loader(prepared, "train", 20, 8, colour=ColourNoise("paper")).epoch(0))


def test_noise_is_added_before_the_scale() -> None:
    random = np.random.default_rng(0)
    images, mean = random.integers(0, 256, (4, 9, 9, 3), np.uint8), random.uniform(0, 255, (9, 9, 3))
    shift = random.normal(0, 20, (4, 3))
    batch = subtract_mean(
        torch.from_numpy(images), centre_crops(4, 9, 9), torch.from_numpy(mean), torch.from_numpy(shift), 1 / 1.1
    )
    for i in range(4):
        for channel in range(3):
            expected = (images[i, :, :, channel] - mean[:, :, channel] + shift[i, channel]) / 1.1
            np.testing.assert_allclose(batch[i, channel].numpy(), expected, rtol=1e-12)


def test_bad_settings_are_named() -> None:
    with pytest.raises(ValueError, match=r"ColourNoise\.std must be positive, not 0"):
        ColourNoise(std=0)
    with pytest.raises(ValueError, match=r"ColourNoise\.convention must be one of .*'paper', 'source'.*not 'none'"):
        ColourNoise("none")  # type: ignore[arg-type]

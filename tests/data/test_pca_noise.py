from typing import get_args

import numpy as np
import pytest

from alexnet_torch.data.cache import PreparedImages
from alexnet_torch.data.loader import Loader
from alexnet_torch.data.pca_noise import Convention, PCANoise


def covariance() -> np.ndarray:
    mix = np.random.default_rng(0).normal(0, 60, (3, 3))
    return np.asarray(mix @ mix.T)


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


def test_noise_is_a_function_of_seed_epoch_and_sample() -> None:
    def noise(seed: int, epoch: int) -> np.ndarray:
        return PCANoise().draw(40, covariance(), seed, epoch)

    assert np.array_equal(noise(1, 2), noise(1, 2))
    assert not np.isclose(noise(1, 2), noise(1, 3)).any()
    assert not np.isclose(noise(1, 2), noise(2, 2)).any()
    assert len(np.unique(noise(1, 2))) == 120


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

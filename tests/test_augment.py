import numpy as np
import pytest
import torch

from alexnet_torch.data.augment import Crops, centre_crops, cut, random_crops, to_float


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


def test_no_room_to_move_is_the_whole_image() -> None:
    assert not random_crops(10, 64, 64, 0, 0, True).top.any()


def test_the_centre() -> None:
    crops = centre_crops(3, 256, 224)
    assert crops.top.tolist() == crops.left.tolist() == [16] * 3
    assert not crops.mirrored.any()


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
def test_the_mean_is_cut_and_mirrored_as_the_image_is(dtype: torch.dtype) -> None:
    random = np.random.default_rng(0)
    images = random.integers(0, 256, (6, 12, 12, 3), np.uint8)
    mean = random.uniform(0, 255, (12, 12, 3))
    crops = Crops(np.arange(6) % 4, np.array([0, 3, 1, 2, 3, 0]), np.arange(6) % 2 == 1)
    cuts = [cut(images[i], crops.top[i], crops.left[i], 9, bool(crops.mirrored[i])) for i in range(6)]
    batch = to_float(torch.from_numpy(np.stack(cuts)), crops, torch.from_numpy(mean).to(dtype))
    assert batch.shape == (6, 3, 9, 9)
    assert batch.dtype == dtype
    assert batch.is_contiguous(memory_format=torch.channels_last)
    for i in range(6):
        whole = images[i] - mean  # subtracted first, then cut, then mirrored: the order cannot matter
        expected = whole[crops.top[i] :][:9, crops.left[i] :][:, :9]
        if crops.mirrored[i]:
            expected = expected[:, ::-1]
        np.testing.assert_allclose(batch[i].permute(1, 2, 0).numpy(), expected, rtol=1e-5, atol=1e-4)

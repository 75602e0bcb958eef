"""examples/alexnet.py computes what the package does, and trains on a folder of images."""

import subprocess
import sys
from importlib import import_module
from pathlib import Path

import numpy as np
import pytest
import torch
import torch.nn.functional as F
from PIL import Image

from alexnet_torch import PAPER, AlexNet
from alexnet_torch.data.augment import Crops, subtract_mean
from alexnet_torch.recipes.catalogue import RECIPES
from alexnet_torch.training.optimizers import build_optimizer, parameter_groups, set_rates
from tests.support.paths import PROJECT

SIDE, SIZE, CLASSES, BATCH = 73, 64, 5, 4
example = import_module("examples.alexnet")  # a script, not a module of a package


def test_ten_steps_are_those_of_the_package() -> None:
    torch.manual_seed(0)
    recipe, mean = RECIPES["paper"](), 255 * torch.rand(3, SIDE, SIDE).double()
    squares = torch.randint(0, 256, (10, BATCH, 3, SIDE, SIDE), dtype=torch.uint8)
    components, labels = torch.randn(3, 3).double(), torch.randint(CLASSES, (10, BATCH))
    simple, net = example.AlexNet(CLASSES, SIZE).double(), AlexNet(PAPER, CLASSES, SIZE).double()
    net.load_state_dict(simple.state_dict())
    simple_sgd = example.PaperSGD(list(simple.parameters()), recipe.lr)
    groups = parameter_groups(net, recipe.bias_decay, recipe.weight_decay)
    sgd = build_optimizer(recipe.optimizer, groups, recipe.momentum)
    set_rates(sgd, recipe.rates(recipe.lr, 0, []))
    for step in range(10):
        torch.manual_seed(step)
        images = example.augment(squares[step], mean, components, SIZE)
        loss = example.train_step(simple, simple_sgd, images, labels[step])
        torch.manual_seed(step)  # the same crops, mirrors, noise and, in both networks, dropout
        top, left = torch.randint(SIDE - SIZE + 1, (2, BATCH)).numpy()
        crops = Crops(top, left, (torch.rand(BATCH) < 0.5).numpy())
        noise = components.new_empty(BATCH, 3).normal_(std=0.1) @ components.T
        ours = subtract_mean(cut(squares[step], crops), crops, mean.permute(1, 2, 0), noise)
        torch.testing.assert_close(ours, images, rtol=1e-10, atol=1e-10)
        our_loss = F.cross_entropy(net(ours), labels[step])
        our_loss.backward()
        sgd.step()
        sgd.zero_grad()
        assert our_loss.item() == pytest.approx(loss.item(), rel=1e-10)
    for (name, ours), expected in zip(net.state_dict().items(), simple.state_dict().values(), strict=True):
        torch.testing.assert_close(ours, expected, rtol=1e-10, atol=1e-10, msg=name)


def cut(squares: torch.Tensor, crops: Crops) -> torch.Tensor:
    """Returns the crops (N, SIZE, SIZE, 3) of squares (N, 3, SIDE, SIDE)."""
    cropped = [
        square[:, top : top + SIZE, left : left + SIZE].flip([2] if mirrored else [])
        for square, (top, left, mirrored) in zip(squares, crops.positions(), strict=True)
    ]
    return torch.stack(cropped).permute(0, 2, 3, 1).contiguous()


def test_an_epoch_on_a_folder(images: Path, tmp_path: Path) -> None:
    options = ["--data", str(images), "--size", str(SIZE), "--batch-size", "8", "--epochs", "1"]
    command = [sys.executable, str(PROJECT / "examples/alexnet.py"), *options, "--output", str(tmp_path / "best.pt")]
    done = subprocess.run(command, capture_output=True, text=True, check=True)
    assert done.stdout.startswith("epoch 1: loss 1.")
    assert "with ten crops" in done.stdout
    AlexNet(PAPER, CLASSES, SIZE).load_state_dict(torch.load(tmp_path / "best.pt"))


def test_the_mean_and_the_components_are_those_of_the_pixels(tmp_path: Path) -> None:
    pixels = np.random.default_rng(0).integers(0, 256, (6, SIDE, SIDE, 3), np.uint8)
    (tmp_path / "a").mkdir()
    for index, image in enumerate(pixels):
        Image.fromarray(image).save(tmp_path / f"a/{index}.png")
    mean, components = example.mean_and_components(example.loader(tmp_path, SIZE, 4))
    np.testing.assert_allclose(mean.permute(1, 2, 0), pixels.mean(0), rtol=1e-6)
    covariance = np.cov(pixels.reshape(-1, 3).T, bias=True)
    np.testing.assert_allclose(components @ components.T, covariance @ covariance / 255**2, rtol=1e-3, atol=1e-3)


def test_ten_crops_are_the_corners_and_the_centre_of_an_image_and_of_its_mirror_image() -> None:
    square, mean = torch.rand(1, 3, SIDE, SIDE), torch.zeros(3, SIDE, SIDE)
    found = torch.cat(example.validation_crops(square, mean, SIZE, True))
    last, centre = SIDE - SIZE, (SIDE - SIZE) // 2
    places = [(centre, centre), (0, 0), (0, last), (last, 0), (last, last)]
    expected = torch.cat([square[..., y : y + SIZE, x : x + SIZE] for y, x in places])
    assert torch.equal(found, torch.cat([expected, expected.flip(3)]))
    assert torch.equal(torch.cat(example.validation_crops(square, mean, SIZE, False)), expected[:1])

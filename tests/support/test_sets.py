"""Test sets in the layouts of their authors, and what a network predicts for their images, computed one by one."""

import json
from collections.abc import Mapping, Sequence
from copy import deepcopy
from functools import cache
from pathlib import Path
from typing import Any

import numpy as np
import torch
from PIL import Image
from torchvision.models import AlexNet_Weights

from alexnet_torch import PAPER, AlexNet, Architecture
from alexnet_torch.data.decode import decode_file
from alexnet_torch.data.sources.classes import imagenet_classes
from alexnet_torch.weights.model_file import TrainedModel, load_model, save_model
from tests.support.commands import run_cli
from tests.support.nets import narrow, with_random_weights

WNIDS = tuple(each.identity for each in imagenet_classes())
NAMES: tuple[str, ...] = tuple(AlexNet_Weights.IMAGENET1K_V1.meta["categories"])
NARROW = narrow(PAPER, 8, 32)


def imagenet_run(
    run: Path, image_size: int = 64, classes: Sequence[str] = NAMES, seed: int = 0, architecture: Architecture = NARROW
) -> Path:
    """Makes a run's folder as import leaves it: a narrow network, whose guesses differ between images."""
    side = round(image_size * 256 / 224)
    net = with_random_weights(AlexNet(architecture, len(classes), image_size, seed=seed).eval())
    with torch.no_grad():
        for parameter in net.parameters():
            parameter.add_(torch.randn(parameter.shape, generator=torch.Generator().manual_seed(seed)), alpha=0.02)
        for tower in range(architecture.towers):  # pixels are -128..127: keep the logits apart, but not saturated
            net.get_parameter(f"towers.{tower}.conv1.weight").mul_(0.05)
    mean = np.random.default_rng(seed).uniform(100, 150, (side, side, 3)).astype(np.float32)
    run.mkdir()
    save_model(run, TrainedModel(net, tuple(classes), mean))
    return run


def write_image(file: Path, seed: int, size: tuple[int, int] = (90, 80)) -> Path:
    """Writes a picture of coloured waves, which survive scaling, losslessly."""
    file.parent.mkdir(parents=True, exist_ok=True)
    random = np.random.default_rng(seed)
    y, x = np.mgrid[0 : size[1], 0 : size[0]] / 80
    waves = [np.sin(x * random.uniform(-30, 30) + y * random.uniform(-30, 30) + random.uniform(0, 6)) for _ in range(3)]
    Image.fromarray((127 * (1 + np.stack(waves, -1))).astype(np.uint8)).save(file, "PNG")
    return file


@cache
def _loaded(run: Path) -> tuple[TrainedModel, AlexNet]:
    """Returns a run's model, and its network in float64."""
    model = load_model(run, ["cpu"])
    return model, deepcopy(model.net).double()


def probabilities(run: Path, file: Path, crops: int = 1, cropped: bool = False) -> np.ndarray:
    """Returns an image's (classes,) float64 mean probabilities over the first crops, computed one by one."""
    model, net = _loaded(run)
    size, side = model.net.image_size, len(model.mean)
    centre = (side - size) // 2
    if cropped:
        square = decode_file(file, size).astype(np.float64)
        images = [square - model.mean[centre : centre + size, centre : centre + size]]
    else:
        square, last = decode_file(file, side) - model.mean.astype(np.float64), side - size
        corners = [(centre, centre), (0, 0), (0, last), (last, 0), (last, last)]
        images = [square[top : top + size, left : left + size] for top, left in corners]
        images += [image[:, ::-1] for image in images]
    assert crops <= len(images)
    with torch.no_grad():
        batch = torch.from_numpy(np.stack(images[:crops]).transpose(0, 3, 1, 2).copy())
        values: np.ndarray = net(batch).softmax(dim=1).mean(dim=0).numpy()
    return values


def evaluate_json(*arguments: str | Path) -> dict[str, Any]:
    """Runs evaluate --json; returns what it prints."""
    done = run_cli("evaluate", *arguments, "--json")
    assert done.returncode == 0, done.stderr
    document: dict[str, Any] = json.loads(done.stdout, parse_constant=lambda name: AssertionError(name))
    return document


def place_by_guess(run: Path, root: Path, folders: Mapping[str, int], images: int, cropped: bool = False) -> None:
    """Writes images into folders of classes, by index: each into that of its guess among these, every third elsewhere.

    So errors are neither 0 nor 1, although the network has learnt nothing.
    """
    names, indices = list(folders), list(folders.values())
    for number in range(images):
        file = write_image(root / f"{number}.png", number, (224, 224) if cropped else (90, 80))
        among = probabilities(run, file, cropped=cropped)[indices]
        best = int(among.argmax())
        folder = names[best if number % 3 else (best + 1) % len(names)]
        (root / folder).mkdir(parents=True, exist_ok=True)
        file.rename(root / folder / file.name)


def refused(*arguments: str | Path) -> str:
    """Returns the last line of evaluate on stderr, which ends with status 2."""
    done = run_cli("evaluate", *arguments)
    assert (done.returncode, done.stdout) == (2, "")
    return done.stderr.splitlines()[-1]

"""Folders of images that tests make, and those that they may find beside the project."""

import json
from collections.abc import Callable, Iterator
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image
from torch import nn

from alexnet_torch.model.alexnet import AlexNet
from alexnet_torch.recipes.catalogue import RECIPES
from alexnet_torch.weights.model_file import TrainedModel, save_model
from tests.support.rank_pool import Crew

SHARED = Path(__file__).resolve().parents[2] / "shared" / "data"


@pytest.fixture(scope="session")
def compiled(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Where kernels are kept, compiled once for all tests."""
    return tmp_path_factory.mktemp("native")


@pytest.fixture(autouse=True)
def _private_cache(monkeypatch: pytest.MonkeyPatch, tmp_path_factory: pytest.TempPathFactory, compiled: Path) -> None:
    monkeypatch.setenv("XDG_CACHE_HOME", str(_cache(tmp_path_factory.mktemp("cache"), compiled)))


def _cache(folder: Path, compiled: Path) -> Path:
    (folder / "alexnet_torch").mkdir()
    (folder / "alexnet_torch/native").symlink_to(compiled)
    return folder


def make_folder(
    root: Path, classes: int = 3, train: int = 8, val: int = 4, size: tuple[int, int] = (40, 30), seed: int = 0
) -> Path:
    """Images of noise around a colour for each class: easy to learn."""
    random = np.random.default_rng(seed)
    for k in range(classes):
        colour = 255 * np.array([k & 1, (k >> 1) & 1, (k >> 2) & 1])
        for split, count in (("train", train), ("val", val)):
            folder = root / split / f"class{k}"
            folder.mkdir(parents=True, exist_ok=True)
            for i in range(count):
                noise = random.integers(0, 256, (size[1], size[0], 3))
                Image.fromarray(((noise + colour) // 2).astype(np.uint8)).save(folder / f"{i:03d}.png")
    return root


@pytest.fixture(scope="session")
def image_folder() -> Callable[..., Path]:
    return make_folder


@pytest.fixture(scope="session")
def crew(compiled: Path, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Crew]:
    """Four processes, for all tests of several."""
    members = Crew(4, _cache(tmp_path_factory.mktemp("cache"), compiled))
    yield members
    members.end()


@pytest.fixture(scope="session")
def images(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """5 classes, which neither 2 nor 4 divides; 35 images, of which batches of 8 leave 3; 15 to validate on."""
    return make_folder(tmp_path_factory.mktemp("same") / "images", classes=5, train=7, val=3)


@pytest.fixture
def shared_data() -> Callable[[str], Path]:
    def find(name: str) -> Path:
        if not (SHARED / name).is_dir():
            pytest.skip(f"{name} is not beside the project")
        return SHARED / name

    return find


def narrow_net(num_classes: int = 3, image_size: int = 64, seed: int = 0) -> AlexNet:
    """The paper's two towers with few channels, for tests of what surrounds the network."""
    architecture = RECIPES["demo"]().architecture
    convs = tuple(replace(conv, channels=16) for conv in architecture.convs)
    linears = (*(replace(linear, width=64) for linear in architecture.linears[:-1]), architecture.linears[-1])
    return AlexNet(replace(architecture, convs=convs, linears=linears), num_classes, image_size, seed=seed)


def lively(net: AlexNet) -> AlexNet:
    """Weights with which every unit has a say and no tanh is saturated; the paper's leave logits to the biases."""
    torch.manual_seed(0)
    for parameter in net.parameters():
        fan_in = parameter[0].numel() if parameter.ndim > 1 else 100
        nn.init.normal_(parameter, 0.0, fan_in**-0.5)
    return net


def make_run(folder: Path) -> Path:
    """A run as training leaves it, of a narrow untrained network on images of noise; the images are beside it."""
    images, run = make_folder(folder / "images"), folder / "run"
    run.mkdir()
    mean = np.random.default_rng(1).uniform(100, 150, (73, 73, 3)).astype(np.float32)
    save_model(run, TrainedModel(narrow_net(), ("class0", "class1", "class2"), mean))
    settings = {"data": str(images), "cache": str(folder / "cache"), "skip_bad": False}
    (run / "config.json").write_text(json.dumps({"settings": settings}))
    reports = [
        {"split": split, "step": step, "epoch": step / 3, "loss": 3 / step, "top1_error": 0.9 / step}
        for step in (1, 2, 3)
        for split in ("train", "val")
    ]
    (run / "metrics.jsonl").write_text("".join(json.dumps(report) + "\n" for report in reports))
    return run


@pytest.fixture
def run_folder(tmp_path: Path) -> Path:
    return make_run(tmp_path)

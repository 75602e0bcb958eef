"""Imported networks of 1,000 classes are tested on ImageNet's sets: their names stand for WordNet IDs."""

from pathlib import Path

import pytest
import torch

from alexnet_torch import TORCHVISION, load_model
from alexnet_torch.data.sources.classes import imagenet_classes
from alexnet_torch.model.presets import PRESETS
from alexnet_torch.weights.grouped import grouped_state_dict
from tests.support.commands import run_cli
from tests.support.nets import narrow
from tests.support.test_sets import NAMES, WNIDS, evaluate_json, imagenet_run, probabilities, write_image


@pytest.fixture
def weights(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A state dict of torchvision's network, narrow, with its 1,000 outputs and nothing else."""
    architecture = narrow(TORCHVISION, 8, 32)
    monkeypatch.setitem(PRESETS, "torchvision", architecture)
    run = imagenet_run(tmp_path / "made", 224, architecture=architecture)
    torch.save(grouped_state_dict(load_model(run, ["cpu"]).net), tmp_path / "weights.pt")
    return tmp_path / "weights.pt"


@pytest.mark.parametrize("names", [False, True])
def test_the_classes_of_an_imported_network_are_imagenets(names: bool, weights: Path, tmp_path: Path) -> None:
    options = ["--architecture", "torchvision", "--inputs", "imagenet", "--image-size", "224"]
    if names:  # as Caffe has them
        lines = [f"{each.identity} {each.name}\n" for each in imagenet_classes()]
        (tmp_path / "synset_words.txt").write_text("".join(lines))
        options += ["--classes", str(tmp_path / "synset_words.txt")]
    done = run_cli("import", weights, "--output", tmp_path / "run", *options)
    assert done.returncode == 0, done.stderr
    crane, machine = "n02012849", "n03126707"
    images = [write_image(tmp_path / f"set/{wnid}/{i}.png", i) for i, wnid in enumerate((crane, machine))]
    document = evaluate_json(tmp_path / "run", "--data", tmp_path / "set", "--crops", "1")
    assert document["matched_by"] == "WordNet ID"
    labels = [WNIDS.index(wnid) for wnid in (crane, machine)]
    if not names:
        assert document["classes"] == [NAMES[label] for label in labels] == ["crane bird", "crane"]
    guesses = [int(probabilities(tmp_path / "run", image).argmax()) for image in images]
    expected = [[int(column == guess) for column in range(1000)] for guess in guesses]
    assert document["results"][0]["confusion"] == expected

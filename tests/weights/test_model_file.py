"""Models on disk: a run's, save_pretrained's, and the entry points of torch.hub; damage is one line."""

import json
import socket
import sys
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from safetensors import safe_open
from safetensors.torch import save_file

import hubconf
from alexnet_torch import AlexNet, TrainedModel, cli, load_model
from alexnet_torch.data.decode import decode_file
from alexnet_torch.errors import UserError
from alexnet_torch.evaluation.predict import predict
from alexnet_torch.model.presets import PRESETS, TORCHVISION
from tests.support.folders import make_run
from tests.support.nets import narrow
from tests.support.paths import PROJECT

pytestmark = pytest.mark.usefixtures("no_network")


@pytest.fixture
def no_network(monkeypatch: pytest.MonkeyPatch) -> None:
    """Makes every connection fail the test."""

    def refuse(*_: object) -> None:
        raise AssertionError("a connection was opened")

    monkeypatch.setattr(socket.socket, "connect", refuse)


def test_a_saved_model_is_loaded_as_it_was(run_folder: Path, tmp_path: Path) -> None:
    model, folder = load_model(run_folder), tmp_path / "new/saved"
    model.save_pretrained(folder)
    model.save_pretrained(str(folder))  # replaces it
    assert [path.name for path in folder.iterdir()] == ["model.safetensors"]
    loaded = TrainedModel.from_pretrained(str(folder), ["cpu"])
    assert not loaded.net.training
    assert repr(loaded) == "TrainedModel(paper, 64 pixels, 3 classes)"
    assert (loaded.classes, loaded.mirror) == (model.classes, model.mirror)
    assert loaded.net.architecture == model.net.architecture
    assert np.array_equal(loaded.mean, model.mean)
    state = model.net.state_dict()
    assert all(torch.equal(state[name], value) for name, value in loaded.net.state_dict().items())
    files = sorted((run_folder.parent / "images/val").rglob("*.png"))[:3]
    assert list(predict(loaded, files)) == list(predict(model, files))
    assert cli.main(["import", str(folder / "model.safetensors"), "--output", str(tmp_path / "imported")]) == 0
    assert load_model(tmp_path / "imported").classes == model.classes


def test_wrong_folders_are_refused(run_folder: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    model = load_model(run_folder)
    with pytest.raises(UserError, match=r"Not a directory|File exists"):
        model.save_pretrained("/dev/null/saved")
    with pytest.raises(UserError, match=r"model\.safetensors: No such file"):
        TrainedModel.from_pretrained("someone/alexnet")
    model.save_pretrained(tmp_path / "saved")
    weights = tmp_path / "saved/model.safetensors"
    content = weights.read_bytes()
    weights.write_bytes(content[:-10])
    with pytest.raises(UserError, match=r"is damaged \(.*\); copy it again, or name a safetensors file"):
        TrainedModel.from_pretrained(tmp_path / "saved")
    save_file(model.net.state_dict(), weights)
    with pytest.raises(UserError, match="describes no model; make a run's folder of it with the command import"):
        TrainedModel.from_pretrained(tmp_path / "saved")
    monkeypatch.setitem(sys.modules, "safetensors", None)
    with pytest.raises(UserError, match=r"needs the package safetensors; pip install 'alexnet_torch\[exchange\]'"):
        TrainedModel.from_pretrained(tmp_path / "saved")


def test_torch_hub_makes_networks(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(PRESETS, "torchvision", narrow(TORCHVISION))
    # as torch.hub.list, which cannot read a local folder, finds entry points
    assert [n for n, v in vars(hubconf).items() if callable(v) and not n.startswith("_")] == ["alexnet", "from_run"]
    net = torch.hub.load(str(PROJECT), "alexnet", "torchvision", num_classes=3, image_size=64, source="local", seed=0)
    assert isinstance(net, AlexNet)
    assert net(torch.zeros(2, 3, 64, 64)).shape == (2, 3)
    with pytest.raises(ValueError, match="no architecture 'vgg'; there are paper, "):
        torch.hub.load(str(PROJECT), "alexnet", "vgg", source="local")


def test_torch_hub_loads_runs_for_images_of_0_to_1(run_folder: Path) -> None:
    net = torch.hub.load(str(PROJECT), "from_run", str(run_folder), source="local")
    model, file = load_model(run_folder), next((run_folder.parent / "images/val").rglob("*.png"))
    assert net.classes == model.classes
    image = torch.from_numpy(decode_file(file, 73)[4:68, 4:68].copy()).permute(2, 0, 1)[None] / 255
    ((_, guesses),) = predict(model, [file])
    with torch.no_grad():
        probabilities = net(image).softmax(1)[0].sort(descending=True)
    assert [guess["label"] for guess in guesses] == [net.classes[i] for i in probabilities.indices]
    assert [guess["probability"] for guess in guesses] == pytest.approx(probabilities.values.tolist(), rel=1e-4)


def test_a_flipped_byte_anywhere_is_an_error_or_changes_nothing(run_folder: Path, tmp_path: Path) -> None:
    model = load_model(run_folder)
    model.save_pretrained(tmp_path)
    path, random, refused = tmp_path / "model.safetensors", np.random.default_rng(0), 0
    intact, weights = path.read_bytes(), model.net.state_dict()
    for position in (*random.integers(0, len(intact), 20), *random.integers(8, 3000, 20)):  # the header is first
        content = bytearray(intact)
        content[position] ^= 1 << int(random.integers(0, 8))
        path.write_bytes(content)
        try:
            read = TrainedModel.from_pretrained(tmp_path)
        except UserError as error:
            assert "\n" not in str(error)  # noqa: PT017
            refused += 1
            continue
        assert (read.classes, read.mirror) == (model.classes, model.mirror)
        assert np.array_equal(read.mean, model.mean)
        assert all(weights[name].equal(value) for name, value in read.net.state_dict().items())
    assert refused > 35


@pytest.mark.parametrize(
    "change",
    [
        *("[" * 300_000, "[]", {"classes": [1, 2, 3]}, {"classes": ["a", "b"]}),
        *({"mean": 3}, {"image_size": "large"}, {"architecture": {"convs": 5}}),
    ],
    ids=["brackets", "list", "classes", "count", "mean", "size", "architecture"],
)
def test_a_wrong_description_is_one_line(change: str | dict[str, Any], tmp_path: Path) -> None:
    run = make_run(tmp_path)
    description = json.loads((run / "model.json").read_text())
    del description["sha256"]
    (run / "model.json").write_text(change if isinstance(change, str) else json.dumps({**description, **change}))
    with pytest.raises(UserError, match=r"run.*: is damaged \(.*\); ") as raised:
        load_model(str(run), ["cpu"])
    assert "\n" not in str(raised.value)


def test_a_truncated_model_is_damaged(tmp_path: Path) -> None:
    run = make_run(tmp_path)
    (run / "model.pt").write_bytes((run / "model.pt").read_bytes()[:-100])
    with pytest.raises(UserError, match=r"model\.pt: is damaged \(File is not a zip file\); restore it from a backup"):
        load_model(run)


def test_files_without_a_checksum_are_read(run_folder: Path, tmp_path: Path) -> None:
    load_model(run_folder).save_pretrained(tmp_path)
    path = tmp_path / "model.safetensors"
    with safe_open(path, framework="pt") as file:
        tensors, metadata = {name: file.get_tensor(name) for name in file.keys()}, file.metadata()  # noqa: SIM118
    assert len(metadata.pop("alexnet_torch_sha256")) == 64
    save_file(tensors, path, metadata)
    assert TrainedModel.from_pretrained(tmp_path).classes == load_model(run_folder).classes

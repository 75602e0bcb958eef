"""What is exported computes what the network computes, in the programs that it is for."""

import json
import sys
from dataclasses import replace
from pathlib import Path

import numpy as np
import onnx
import onnxruntime
import pytest
import torch
import torchvision
from safetensors import safe_open
from torch import Tensor

from alexnet_torch import AlexNet, cli, load_model
from alexnet_torch.model.architecture import PAPER, Architecture
from alexnet_torch.model.presets import CAFFE, SOURCE_2012, TENSORFLOW_POST, TORCHVISION
from alexnet_torch.weights import export_model as exporting
from alexnet_torch.weights.grouped import grouped_to_towers, towers_to_grouped
from alexnet_torch.weights.model_file import TrainedModel, save_model
from tests.support.nets import narrow, with_random_weights

CLASSES = ("a", "b", "c", "d", "e")


def saved(run: Path, net: Architecture, size: int = 67) -> TrainedModel:
    """A run's folder with weights with which every unit has a say, and a mean image that is nowhere the same."""
    network = with_random_weights(AlexNet(net, len(CLASSES), size), gain=2**0.5, bias_std=0.5**0.5).eval()
    mean = np.random.default_rng(0).uniform(0, 255, (size + 9, size + 9, 3)).astype(np.float32)
    run.mkdir()
    save_model(run, TrainedModel(network, CLASSES, mean))
    return load_model(run, ["cpu"])


def export(run: Path, file: Path, *options: str) -> None:
    assert cli.main(["export", str(run), str(file), *options]) == 0


def logits(model: TrainedModel, images: Tensor) -> Tensor:
    """Of RGB images (N, 3, S, S) of 0..255, the centre of what the mean image is of."""
    size, start = images.shape[-1], (model.mean.shape[0] - images.shape[-1]) // 2
    mean = torch.from_numpy(model.mean[start : start + size, start : start + size]).permute(2, 0, 1)
    with torch.no_grad():
        return model.net(images - mean)  # type: ignore[no-any-return]


def batches(size: int = 67) -> list[Tensor]:
    random = torch.Generator().manual_seed(1)
    return [torch.randint(0, 256, (n, 3, size, size), generator=random).float() for n in (1, 3)]


def same_weights(one: TrainedModel, other: TrainedModel) -> bool:
    theirs = other.net.state_dict()
    return all(torch.equal(value, theirs[name]) for name, value in one.net.state_dict().items())


@pytest.fixture(scope="module")
def caffe_onnx(tmp_path_factory: pytest.TempPathFactory) -> tuple[TrainedModel, Path]:
    """A model that normalises across towers, and its ONNX file: making one takes seconds."""
    folder = tmp_path_factory.mktemp("onnx")
    model = saved(folder / "run", narrow(CAFFE))
    export(folder / "run", folder / "net.onnx")
    return model, folder / "net.onnx"


def computes_the_same(model: TrainedModel, file: Path) -> None:
    session = onnxruntime.InferenceSession(file)
    assert session.get_inputs()[0].shape == ["batch", 3, 67, 67]
    for images in batches():
        (theirs,) = session.run(["logits"], {"images": images.numpy()})
        expected = logits(model, images)
        assert expected.std() > 0.1
        torch.testing.assert_close(torch.from_numpy(theirs), expected, rtol=1e-4, atol=1e-4)


def test_onnxruntime_computes_what_pytorch_computes_for_any_batch(caffe_onnx: tuple[TrainedModel, Path]) -> None:
    computes_the_same(*caffe_onnx)


@pytest.mark.slow
@pytest.mark.parametrize("net", [PAPER, SOURCE_2012, TENSORFLOW_POST, TORCHVISION], ids=lambda net: net.name)
def test_so_it_does_for_the_other_architectures(net: Architecture, tmp_path: Path) -> None:
    model = saved(tmp_path / "run", narrow(net))
    export(tmp_path / "run", tmp_path / "net.onnx")
    computes_the_same(model, tmp_path / "net.onnx")


def test_response_normalisation_is_exported_in_a_few_operators(caffe_onnx: tuple[TrainedModel, Path]) -> None:
    kinds = [node.op_type for node in onnx.load(caffe_onnx[1]).graph.node]
    assert "ScatterND" not in kinds
    assert len(kinds) < 120


def test_torch_export_computes_the_same_for_any_batch(tmp_path: Path) -> None:
    model = saved(tmp_path / "run", narrow(SOURCE_2012), 64)
    export(tmp_path / "run", tmp_path / "net.pt2")
    files = {"model.json": ""}
    program = torch.export.load(tmp_path / "net.pt2", extra_files=files).module()
    for images in batches(64):
        with torch.no_grad():
            torch.testing.assert_close(program(images), logits(model, images), rtol=1e-4, atol=1e-4)
    assert json.loads(files["model.json"])["classes"] == list(CLASSES)


@pytest.mark.parametrize("ending", [".safetensors", ".onnx"])
def test_a_file_with_metadata_is_the_model_again(
    ending: str, caffe_onnx: tuple[TrainedModel, Path], tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    model, file = caffe_onnx
    if ending == ".safetensors":
        run, file = file.with_name("run"), tmp_path / "net.safetensors"
        export(run, file)
    assert cli.main(["import", str(file), "--output", str(tmp_path / "again")]) == 0
    again = load_model(tmp_path / "again", ["cpu"])
    assert same_weights(model, again)
    assert np.array_equal(again.mean, model.mean)
    assert (again.classes, again.net.architecture) == (model.classes, model.net.architecture)
    assert cli.main(["import", str(file), "--output", str(tmp_path / "other"), "--mean", "1,2,3"]) == 2
    assert "describes its own model; leave out all options but --output and --classes" in capsys.readouterr().err
    (tmp_path / "names.txt").write_text("v\nw\nx\ny\nz\n")
    named = ["import", str(file), "--output", str(tmp_path / "named"), "--classes", str(tmp_path / "names.txt")]
    assert cli.main(named) == 0
    assert load_model(tmp_path / "named", ["cpu"]).classes == ("v", "w", "x", "y", "z")


def test_safetensors_has_one_name_for_each_tensor_and_readable_metadata(tmp_path: Path) -> None:
    model = saved(tmp_path / "run", narrow(PAPER))
    export(tmp_path / "run", tmp_path / "net.safetensors")
    with safe_open(tmp_path / "net.safetensors", framework="pt") as file:
        assert set(file.keys()) == set(model.net.state_dict())
        metadata = file.metadata()
    assert json.loads(metadata["architecture"])["name"] == "paper"
    assert json.loads(metadata["image_size"]) == 67
    assert json.loads(metadata["mean_rgb"]) == pytest.approx(model.mean.mean((0, 1)).tolist(), rel=1e-5)


def test_the_scale_of_images_goes_into_grouped_weights_and_into_graphs(tmp_path: Path) -> None:
    model = saved(tmp_path / "run", replace(narrow(PAPER), input_scale=0.25), 64)
    export(tmp_path / "run", tmp_path / "net.pt")
    plain = AlexNet(narrow(PAPER), len(CLASSES), 64).eval()
    plain.load_state_dict(grouped_to_towers(torch.load(tmp_path / "net.pt", weights_only=True), 2))
    export(tmp_path / "run", tmp_path / "net.pt2")
    program = torch.export.load(tmp_path / "net.pt2").module()
    for images in batches(64):
        with torch.no_grad():
            theirs = logits(replace(model, net=plain), images)
            torch.testing.assert_close(theirs, logits(model, images), rtol=1e-4, atol=1e-4)
            torch.testing.assert_close(program(images), logits(model, images), rtol=1e-4, atol=1e-4)


def test_grouped_is_a_plain_state_dict_of_whole_tensors(tmp_path: Path) -> None:
    model = saved(tmp_path / "run", narrow(PAPER))
    export(tmp_path / "run", tmp_path / "net.pt")
    weights = torch.load(tmp_path / "net.pt", weights_only=True)
    assert list(weights) == list(towers_to_grouped(model.net.state_dict()))
    halves = [model.net.state_dict()[f"towers.{tower}.conv2.weight"] for tower in (0, 1)]
    assert torch.equal(weights["conv2.weight"], torch.cat(halves))


def test_torchvisions_layout_says_which_images_where_they_are_not_its_own(
    tmp_path: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    """That it comes back to torchvision as it was is tested in test_importing.py, on the real one."""
    monkeypatch.setattr(exporting, "TORCHVISION", narrow(TORCHVISION))
    mine = replace(narrow(TORCHVISION), name="mine", dropout=("fc7",), input_scale=0.25)
    model = saved(tmp_path / "run", mine)
    export(tmp_path / "run", tmp_path / "net.pth", "--format", "torchvision")
    assert "reads RGB images, 0..255, minus the mean image" in capsys.readouterr().out
    written = torch.load(tmp_path / "net.pth", weights_only=True)
    with torch.device("meta"):
        assert list(written) == list(torchvision.models.alexnet().state_dict())
    expected = model.net.state_dict()
    expected["towers.0.conv1.weight"] = expected["towers.0.conv1.weight"] * 0.25  # its file knows of no scale
    for ours, theirs in zip(expected.values(), written.values(), strict=True):
        assert torch.equal(ours, theirs)


def test_export_refuses_in_one_line(
    tmp_path: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    saved(tmp_path / "run", narrow(PAPER))

    def said(*given: str) -> str:
        assert cli.main(["export", str(tmp_path / "run"), *given]) == 2
        error = capsys.readouterr().err
        assert error.count("\n") == 1
        return error

    assert "net.bin: no format has this ending; choose one with --format: safetensors, grouped" in said("net.bin")
    assert "--format keras: no such format; choose from safetensors" in said("net.pt", "--format", "keras")
    assert "is a run's own model, which this would damage" in said(str(tmp_path / "run/model.pt"))
    assert "torchvision has no paper; use --format grouped" in said("net.pt", "--format", "torchvision")
    for ending in ("safetensors", "pt", "onnx", "pt2"):
        assert f"there is no folder {tmp_path}/nowhere" in said(str(tmp_path / f"nowhere/net.{ending}"))
    assert "cannot be written (" in said("/proc/net.safetensors")
    monkeypatch.setitem(sys.modules, "onnx", None)
    assert "needs the package onnx; run pip install -r requirements-exchange.txt" in said(str(tmp_path / "net.onnx"))
    assert cli.main(["export", str(tmp_path / "nothing"), "net.pt"]) == 2
    assert "no model here" in capsys.readouterr().err

"""Exported files compute what the network computes, in the programs that read them."""

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
from torch import Tensor, nn

from alexnet_torch import AlexNet, cli, load_model
from alexnet_torch.model.architecture import PAPER, Architecture
from alexnet_torch.model.presets import CAFFE, SOURCE_2012, TENSORFLOW_POST, TORCHVISION
from alexnet_torch.weights import export as exporting
from alexnet_torch.weights.model_file import TrainedModel, save_model
from alexnet_torch.weights.state_dicts import grouped_to_towers, towers_to_grouped
from tests.support.nets import narrow, with_random_weights

CLASSES = ("a", "b", "c", "d", "e")


def save_random_model(run: Path, architecture: Architecture, size: int = 67) -> TrainedModel:
    """Saves a model with weights with which every unit affects the logits, and a mean image of noise."""
    net = with_random_weights(AlexNet(architecture, len(CLASSES), size), gain=2**0.5, bias_std=0.5**0.5).eval()
    for tower in net.towers.values():  # equal in both, as in an untrained network: ONNX's exporter merges them
        nn.init.zeros_(tower.get_parameter("conv4.bias"))
    mean = np.random.default_rng(0).uniform(0, 255, (size + 9, size + 9, 3)).astype(np.float32)
    run.mkdir()
    save_model(run, TrainedModel(net, CLASSES, mean))
    return load_model(run, ["cpu"])


def export(run: Path, file: Path, *options: str) -> None:
    assert cli.main(["export", str(run), str(file), *options]) == 0


def logits(model: TrainedModel, images: Tensor) -> Tensor:
    """Returns the logits of RGB images (N, 3, H, W), 0..255, which are centre crops."""
    size, start = images.shape[-1], (model.mean.shape[0] - images.shape[-1]) // 2
    mean = torch.from_numpy(model.mean[start : start + size, start : start + size]).permute(2, 0, 1)
    with torch.no_grad():
        return model.net(images - mean)  # type: ignore[no-any-return]


def batches(size: int = 67) -> list[Tensor]:
    generator = torch.Generator().manual_seed(1)
    return [torch.randint(0, 256, (n, 3, size, size), generator=generator).float() for n in (1, 3)]


@pytest.fixture(scope="module")
def caffe_onnx(tmp_path_factory: pytest.TempPathFactory) -> tuple[TrainedModel, Path]:
    """A model that normalises across towers, and its ONNX file, whose export takes seconds."""
    folder = tmp_path_factory.mktemp("onnx")
    model = save_random_model(folder / "run", narrow(CAFFE))
    export(folder / "run", folder / "net.onnx")
    return model, folder / "net.onnx"


def assert_onnxruntime_agrees(model: TrainedModel, file: Path) -> None:
    session = onnxruntime.InferenceSession(file)
    assert session.get_inputs()[0].shape == ["batch", 3, 67, 67]
    for images in batches():
        (actual,) = session.run(["logits"], {"images": images.numpy()})
        expected = logits(model, images)
        assert expected.std() > 0.1
        torch.testing.assert_close(torch.from_numpy(actual), expected, rtol=1e-4, atol=1e-4)


def test_onnxruntime_computes_what_pytorch_computes_for_any_batch(caffe_onnx: tuple[TrainedModel, Path]) -> None:
    assert_onnxruntime_agrees(*caffe_onnx)
    operators = [node.op_type for node in onnx.load(caffe_onnx[1]).graph.node]
    assert "ScatterND" not in operators  # response normalisation takes a few operators
    assert len(operators) < 120


@pytest.mark.slow
@pytest.mark.parametrize(
    "architecture", [PAPER, SOURCE_2012, TENSORFLOW_POST, TORCHVISION], ids=lambda architecture: architecture.name
)
def test_onnxruntime_computes_what_pytorch_computes_for_the_other_architectures(
    architecture: Architecture, tmp_path: Path
) -> None:
    model = save_random_model(tmp_path / "run", narrow(architecture))
    export(tmp_path / "run", tmp_path / "net.onnx")
    assert_onnxruntime_agrees(model, tmp_path / "net.onnx")


def test_torch_export_computes_what_the_network_computes_for_any_batch(tmp_path: Path) -> None:
    model = save_random_model(tmp_path / "run", narrow(SOURCE_2012), 64)
    export(tmp_path / "run", tmp_path / "net.pt2")
    extra_files = {"model.json": ""}
    program = torch.export.load(tmp_path / "net.pt2", extra_files=extra_files).module()
    for images in batches(64):
        with torch.no_grad():
            torch.testing.assert_close(program(images), logits(model, images), rtol=1e-4, atol=1e-4)
    assert json.loads(extra_files["model.json"])["classes"] == list(CLASSES)


@pytest.mark.parametrize("ending", [".safetensors", ".onnx"])
def test_a_file_with_metadata_imports_as_the_same_model(
    ending: str, caffe_onnx: tuple[TrainedModel, Path], tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    model, file = caffe_onnx
    if ending == ".safetensors":
        run, file = file.with_name("run"), tmp_path / "net.safetensors"
        export(run, file)
    assert cli.main(["import", str(file), "--output", str(tmp_path / "imported")]) == 0
    imported = load_model(tmp_path / "imported", ["cpu"])
    weights = imported.net.state_dict()
    assert all(torch.equal(weights[name], value) for name, value in model.net.state_dict().items())
    assert np.array_equal(imported.mean, model.mean)
    assert (imported.classes, imported.net.architecture) == (model.classes, model.net.architecture)
    assert cli.main(["import", str(file), "--output", str(tmp_path / "other"), "--mean", "1,2,3"]) == 2
    assert "describes its own model; leave out all options but --output and --classes" in capsys.readouterr().err
    (tmp_path / "names.txt").write_text("v\nw\nx\ny\nz\n")
    renamed = ["import", str(file), "--output", str(tmp_path / "named"), "--classes", str(tmp_path / "names.txt")]
    assert cli.main(renamed) == 0
    assert load_model(tmp_path / "named", ["cpu"]).classes == ("v", "w", "x", "y", "z")
    content = bytearray(file.read_bytes())
    content[content.index(model.net.state_dict()["towers.1.fc7.weight"].numpy().tobytes()) + 40] ^= 1
    (flipped := tmp_path / f"flipped{ending}").write_bytes(content)
    assert cli.main(["import", str(flipped), "--output", str(tmp_path / "flipped")]) == 2
    assert f"{flipped}: is damaged (its checksum is wrong); copy it again" in capsys.readouterr().err


def test_grouped_weights_and_graphs_contain_the_scale_of_the_images(tmp_path: Path) -> None:
    model = save_random_model(tmp_path / "run", replace(narrow(PAPER), input_scale=0.25), 64)
    export(tmp_path / "run", tmp_path / "net.pt")
    grouped, towers = torch.load(tmp_path / "net.pt", weights_only=True), model.net.state_dict()
    assert list(grouped) == list(towers_to_grouped(towers))
    assert torch.equal(grouped["conv2.weight"], torch.cat([towers[f"towers.{k}.conv2.weight"] for k in (0, 1)]))
    unscaled = AlexNet(narrow(PAPER), len(CLASSES), 64).eval()
    unscaled.load_state_dict(grouped_to_towers(grouped, 2))
    export(tmp_path / "run", tmp_path / "net.pt2")
    program = torch.export.load(tmp_path / "net.pt2").module()
    for images in batches(64):
        with torch.no_grad():
            expected = logits(model, images)
            torch.testing.assert_close(logits(replace(model, net=unscaled), images), expected, rtol=1e-4, atol=1e-4)
            torch.testing.assert_close(program(images), expected, rtol=1e-4, atol=1e-4)


def test_torchvisions_layout_for_our_images_says_so(
    tmp_path: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    """test_import_model.py tests the round trip for torchvision's images, on the full-size network."""
    monkeypatch.setattr(exporting, "TORCHVISION", narrow(TORCHVISION))
    variant = replace(narrow(TORCHVISION), name="variant", dropout=("fc7",), input_scale=0.25)
    model = save_random_model(tmp_path / "run", variant)
    export(tmp_path / "run", tmp_path / "net.pth", "--format", "torchvision")
    assert "reads RGB images, 0..255, minus the mean image" in capsys.readouterr().out
    written = torch.load(tmp_path / "net.pth", weights_only=True)
    with torch.device("meta"):
        assert list(written) == list(torchvision.models.alexnet().state_dict())
    expected = model.net.state_dict()
    expected["towers.0.conv1.weight"] = expected["towers.0.conv1.weight"] * 0.25  # its file has no scale
    for expected_value, value in zip(expected.values(), written.values(), strict=True):
        assert torch.equal(expected_value, value)


def test_export_errors_are_one_line(
    tmp_path: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    save_random_model(tmp_path / "run", narrow(PAPER))

    def export_error(*arguments: str) -> str:
        assert cli.main(["export", str(tmp_path / "run"), *arguments]) == 2
        error = capsys.readouterr().err
        assert error.count("\n") == 1
        return error

    endings = "net.bin: 'bin' is no format; choose one with --format: safetensors, grouped"
    assert endings in export_error("net.bin")
    assert "'keras' is no format; choose one with" in export_error("net.pt", "--format", "keras")
    assert "is a run's own model, which export would overwrite" in export_error(str(tmp_path / "run/model.pt"))
    other = "torchvision's alexnet is not paper; use --format grouped"
    assert other in export_error("net.pt", "--format", "torchvision")
    for ending in ("safetensors", "pt", "onnx", "pt2"):
        assert f"there is no folder {tmp_path}/nowhere" in export_error(str(tmp_path / f"nowhere/net.{ending}"))
    assert "/proc/" in export_error("/proc/net.safetensors")
    monkeypatch.setitem(sys.modules, "onnx", None)
    assert "needs the package onnx; pip install 'alexnet_torch[exchange]'" in export_error(str(tmp_path / "net.onnx"))
    assert cli.main(["export", str(tmp_path / "nothing"), "net.pt"]) == 2
    assert "no model here" in capsys.readouterr().err

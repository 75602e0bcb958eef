"""Models imported from Caffe's, ONNX, torchvision's and PyTorch files, against networks independent of this package."""

import os
import pickle
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
import torch
import torchvision
from PIL import Image
from safetensors.torch import save_file
from torch import Tensor, nn

from alexnet_torch import cli, predict
from alexnet_torch.model.presets import PRESETS
from alexnet_torch.weights.state_dicts import grouped_shapes
from tests.support.caffe_files import (
    CLASSES,
    SIZE,
    V1,
    V2,
    BlobEncoder,
    FieldNumbers,
    caffemodel,
    packed_data,
    random_caffe_weights,
    unpacked_data,
    with_four_sizes,
)
from tests.support.imports import (
    BGR_MEAN,
    assert_computes,
    import_error,
    import_file,
    rgb_images,
    write_onnx,
)
from tests.support.plain_net import grouped_logits

pytestmark = pytest.mark.usefixtures("narrow_presets")


@pytest.mark.parametrize(
    ("numbers", "encode_blob"),
    [
        (V2, None),
        (V2, lambda array: with_four_sizes(array) + packed_data(array)),
        (V1, lambda array: with_four_sizes(array) + packed_data(array)),
        (V1, lambda array: with_four_sizes(array) + unpacked_data(array)),
    ],
    ids=["layer, shape", "layer, four sizes", "layers", "layers, not packed"],
)
def test_a_caffemodel_computes_what_caffe_computes(
    numbers: FieldNumbers, encode_blob: BlobEncoder | None, tmp_path: Path
) -> None:
    weights = random_caffe_weights()
    file = tmp_path / "bvlc_alexnet.caffemodel"
    file.write_bytes(caffemodel(weights, numbers, encode_blob))
    model = import_file(file, "--image-size", str(SIZE))
    images = rgb_images()
    assert model.net.architecture == PRESETS["caffe"]
    assert model.classes == tuple(f"class {index}" for index in range(CLASSES))
    expected = grouped_logits(weights, images.flip(1) - BGR_MEAN)
    assert_computes(model, images, expected)
    rgb_logits = grouped_logits(weights, images - BGR_MEAN)
    assert (rgb_logits - expected).abs().max() > 0.1  # the channel order matters


def written(file: Path, weights: dict[str, Tensor]) -> Path:
    if file.suffix == ".caffemodel":
        file.write_bytes(caffemodel(weights))
    elif file.suffix == ".onnx":
        write_onnx(file, weights, False)
    else:
        torch.save(weights, file)
    return file


def test_odd_sides_are_pooled_as_caffe_pools_them_and_227_pixels_are_detected(tmp_path: Path) -> None:
    """At 64 pixels conv1's 14 become 7: the last window reaches past the edge."""
    weights, images = random_caffe_weights(), rgb_images()[:, :, :64, :64]
    model = import_file(written(tmp_path / "a.caffemodel", weights), "--image-size", "64")
    assert_computes(model, images, grouped_logits(weights, images.flip(1) - BGR_MEAN))
    weights["fc6.weight"] = torch.randn(48, 16 * 6 * 6)
    model = import_file(written(tmp_path / "b.caffemodel", weights))
    assert (model.net.image_size, model.mean.shape) == (227, (256, 256, 3))


def test_the_mean_is_a_colour_or_a_file_of_caffe_or_numpy(tmp_path: Path) -> None:
    weights, images = random_caffe_weights(), rgb_images()
    mean = torch.rand(3, SIZE + 2, SIZE + 2) * 255  # BGR
    (tmp_path / "mean.binaryproto").write_bytes(with_four_sizes(mean.numpy()) + packed_data(mean.numpy()))
    np.save(tmp_path / "caffe.npy", mean.numpy())
    np.save(tmp_path / "ours.npy", mean.numpy()[::-1].transpose(1, 2, 0))
    means = {str(tmp_path / name): mean[:, 1:-1, 1:-1] for name in ("mean.binaryproto", "caffe.npy", "ours.npy")}
    means["10,20,30"] = torch.tensor([30.0, 20.0, 10.0]).view(3, 1, 1)
    for index, (option, value) in enumerate(means.items()):
        file = written(tmp_path / f"{index}.caffemodel", weights)
        model = import_file(file, "--image-size", str(SIZE), "--mean", option)
        assert_computes(model, images, grouped_logits(weights, images.flip(1) - value))


def with_random_weights(net: nn.Module) -> nn.Module:
    torch.manual_seed(0)
    for parameter in net.parameters():
        nn.init.normal_(parameter, 0.0, (2 / parameter[0].numel()) ** 0.5 if parameter.ndim > 1 else 0.1)
    return net.eval()


def test_torchvisions_file_predicts_what_torchvision_predicts(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    with torch.device("meta"):
        original = with_random_weights(torchvision.models.alexnet().to_empty(device="cpu"))
    torch.save(original.state_dict(), tmp_path / "alexnet-owt.pth")
    model = import_file(tmp_path / "alexnet-owt.pth")
    printed = capsys.readouterr().out
    assert "architecture torchvision at 224 pixels, 1000 classes (assumed to be ImageNet's" in printed
    assert "assumed to read imagenet images, minus ImageNet's mean colour 123.67,116.28,103.53" in printed
    # at 256 pixels neither side resizes, and crops are the same
    pixels = np.random.default_rng(0).integers(0, 256, (256, 256, 3), dtype=np.uint8)
    Image.fromarray(pixels).save(tmp_path / "a.png")
    imagenet = torchvision.models.AlexNet_Weights.IMAGENET1K_V1
    with Image.open(tmp_path / "a.png") as image, torch.no_grad():
        expected = original(imagenet.transforms()(image)[None])
    assert_computes(model, torch.from_numpy(pixels[16:-16, 16:-16].copy()).permute(2, 0, 1)[None].float(), expected)
    ((_, guesses),) = predict(model, [tmp_path / "a.png"])
    best = expected.softmax(1).topk(5)
    assert [g["label"] for g in guesses] == [imagenet.meta["categories"][int(i)] for i in best.indices[0]]
    assert [g["probability"] for g in guesses] == pytest.approx(best.values[0].tolist(), abs=1e-4)
    run, exported = str(tmp_path / "alexnet-owt.pth-run"), tmp_path / "exported.pth"
    assert cli.main(["export", run, str(exported), "--format", "torchvision"]) == 0
    assert "torchvision's images (0..1, standardised" in capsys.readouterr().out
    weights = torch.load(exported, weights_only=True)
    for name, value in original.state_dict().items():
        torch.testing.assert_close(weights[name], value, rtol=1e-6, atol=0)


@pytest.mark.parametrize("prefix", ["", "module."])
def test_a_grouped_state_dict_is_read_as_the_options_say(prefix: str, tmp_path: Path) -> None:
    weights, images = random_caffe_weights(), rgb_images()
    file = tmp_path / "checkpoint.pth.tar"
    torch.save({"epoch": 90, "state_dict": {prefix + name: value for name, value in weights.items()}}, file)
    options = ["--image-size", str(SIZE), "--architecture", "caffe", "--inputs", "rgb", "--mean", "10,20,30"]
    names = tmp_path / "names.txt"
    names.write_text("\n".join(f"animal {index}" for index in range(CLASSES)) + "\n")
    model = import_file(file, *options, "--classes", str(names))
    assert model.classes[6] == "animal 6"
    assert_computes(model, images, grouped_logits(weights, images - torch.tensor([10.0, 20.0, 30.0]).view(3, 1, 1)))


def test_the_user_must_say_what_cannot_be_detected(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    file, options = written(tmp_path / "weights.pt", random_caffe_weights()), ["--image-size", str(SIZE)]
    assert "its shapes fit paper, source_2012, caffe, caffenet, which" in import_error(capsys, file, *options)
    options += ["--architecture", "caffe"]
    assert "does not say which images it reads; choose with --inputs: rgb" in import_error(capsys, file, *options)
    options += ["--inputs", "rgb"]
    assert "does not say its images' mean; give it with --mean" in import_error(capsys, file, *options)
    for mean in ("1,2", "1,2,x", "1,nan,3"):
        assert f"--mean {mean}: must be R,G,B of 0..255" in import_error(capsys, file, *options, "--mean", mean)
    for given, message in (
        ([*options[:4], "--inputs", "grey"], "--inputs grey: there is no such one; choose from rgb"),
        (["--architecture", "vgg"], "--architecture vgg: there is no such one; choose from paper"),
        (["--image-size", "9"], "no architecture reads images of 9 pixels"),
    ):
        assert message in import_error(capsys, file, *given)
    mean_file = tmp_path / "mean.npy"
    of_file = ["--mean", str(mean_file)]
    np.save(mean_file, np.zeros((60, 60, 3)))
    assert "its shape is (60, 60, 3), its values 0..0; must be" in import_error(capsys, file, *options, *of_file)
    np.save(mean_file, np.full((70, 70, 3), 255.5))
    assert "its shape is (70, 70, 3), its values 255.5..255.5; must be" in import_error(
        capsys, file, *options, *of_file
    )
    mean_file.write_bytes(mean_file.read_bytes().replace(b"descr", b"\xff\0{[("))
    assert f"--mean {mean_file}: is damaged (" in import_error(capsys, file, *options, *of_file)
    names = tmp_path / "names.txt"
    names.write_text("a\nb\n")
    options += ["--mean", "1,2,3", "--classes", str(names)]
    assert f"has 2 names, but the network has {CLASSES} classes" in import_error(capsys, file, *options)


def test_torchvisions_shapes_are_torchvisions_under_its_names_only(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    """A run of its architecture, exported as grouped, reads our images under our names."""
    with torch.device("meta"):
        shapes = {name: value.shape for name, value in torchvision.models.alexnet(num_classes=5).state_dict().items()}
    shapes["features.3.weight"] = torch.Size((192, 64, 3, 3))
    zero = torch.zeros(1)
    ours = grouped_shapes(PRESETS["torchvision"], 5, 224)
    torch.save({name: zero.expand(shape) for name, shape in ours.items()}, tmp_path / "net.pt")
    assert "does not say which images it reads; choose with --inputs" in import_error(capsys, tmp_path / "net.pt")
    torch.save({name: zero.expand(shape) for name, shape in shapes.items()}, tmp_path / "a.pth")
    error = import_error(capsys, tmp_path / "a.pth")
    assert "features.3.weight is (192, 64, 3, 3); in torchvision at 224 pixels it is (192, 64, 5, 5)" in error


def test_tensors_that_do_not_fit_are_named(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    weights = random_caffe_weights()
    wide = {**weights, "fc7.weight": torch.zeros(40, 47)}
    fewer = {name: value for name, value in weights.items() if not name.startswith("conv4")}
    unnamed = {f"net.layer_{name}": value for name, value in fewer.items()}
    more = {**weights, "conv9.weight": torch.zeros(1), "conv9.bias": torch.zeros(1)}
    for name, content, message in (
        ("a.caffemodel", wide, "a.caffemodel: fc7.weight is (40, 47); in caffe at 67 pixels it is (40, 48)"),
        ("a.pt", wide, "a.pt: fc7.weight is (40, 47); in caffe at 67 pixels it is (40, 48)"),
        ("b.pt", fewer, "has no conv4.weight, which caffe"),
        ("c.pt", unnamed, "in net it has 4 convolutions and 3 linear layers, not AlexNet's 5 and 3"),
        ("d.pt", more, "conv9.weight is not in caffe"),
        ("e.pt", {**weights, "bn.running_mean": torch.zeros(1)}, "bn.running_mean is not one of a layer's weight and"),
    ):
        file = written(tmp_path / name, content)
        assert message in import_error(capsys, file, "--image-size", str(SIZE), "--architecture", "caffe")


@pytest.mark.parametrize("name", ["a.caffemodel", "a.onnx", "a.pt", "a.safetensors", "a.pt2"])
def test_errors_for_damaged_files_are_one_line(name: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    file = tmp_path / name
    if file.suffix == ".safetensors":
        save_file(random_caffe_weights(), file)
    else:
        written(file, random_caffe_weights())
    file.write_bytes(file.read_bytes()[:-1000])
    assert "damaged" in import_error(capsys, file)
    file.write_bytes(b"")
    assert str(file) in import_error(capsys, file)
    file.write_bytes(np.random.default_rng(0).bytes(5000))
    assert str(file) in import_error(capsys, file)
    file.unlink()
    assert "no such file; name a weight file" in import_error(capsys, file)


class Trap:
    def __reduce__(self) -> tuple[Callable[[str], None], tuple[str]]:
        return os.mkdir, ("sprung",)


def test_nothing_but_tensors_is_unpickled(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.chdir(tmp_path)
    torch.save({"conv1.weight": Trap()}, "trap.pt")
    Path("old.pt").write_bytes(pickle.dumps(Trap(), protocol=2))
    for name in ("trap.pt", "old.pt"):
        error = import_error(capsys, tmp_path / name)
        assert "contains more than tensors, posix.mkdir, which is not unpickled" in error
    assert not Path("sprung").exists()
    torch.save([1, 2], "list.pt")
    assert "it contains a list, and no network's weights" in import_error(capsys, tmp_path / "list.pt")


def test_an_existing_run_is_not_overwritten(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    file = written(tmp_path / "a.caffemodel", random_caffe_weights())
    import_file(file, "--image-size", str(SIZE))
    assert cli.main(["import", str(file), "--output", f"{file}-run", "--image-size", str(SIZE)]) == 2
    assert "contains a run already; name another folder" in capsys.readouterr().err

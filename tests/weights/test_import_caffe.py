"""Settings of .caffemodel files: every one is taken into the architecture, or refused by name."""

import shutil
from pathlib import Path

import pytest

from tests.support.caffe_files import (
    BVLC_ALEXNET,
    SIZE,
    V1,
    V2,
    FieldNumbers,
    caffemodel,
    caffenet,
    random_caffe_weights,
)
from tests.support.imports import (
    BGR_MEAN,
    assert_computes,
    caffe_logits,
    import_error,
    import_file,
    rgb_images,
    write_onnx,
)

pytestmark = pytest.mark.usefixtures("narrow_presets")


@pytest.mark.parametrize("numbers", [V2, V1], ids=["layer", "layers"])
def test_a_caffemodels_settings_are_taken_into_the_architecture(
    numbers: FieldNumbers, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    weights, images = random_caffe_weights(), rgb_images()[:, :, :39, :39]
    file = tmp_path / "net.caffemodel"
    layers = tuple(
        (kind, name, {"stride": 2} if name == "conv1" else settings) for kind, name, settings in BVLC_ALEXNET
    )
    file.write_bytes(caffemodel(weights, numbers, layers=layers))
    model = import_file(file, "--image-size", "39")
    assert model.net.architecture.convs[0].stride == 2
    assert_computes(model, images, caffe_logits(weights, images.flip(1) - BGR_MEAN, stride=2))
    error = import_error(capsys, file, "--image-size", "39", "--architecture", "caffe")
    assert "conv1.stride 2 instead of 4" in error
    file.write_bytes(caffemodel(weights, numbers, alpha=0.1))
    shutil.rmtree(f"{file}-run")
    assert import_file(file, "--image-size", str(SIZE)).net.architecture.norm.alpha == 0.1


@pytest.mark.parametrize("ending", [".caffemodel", ".onnx"])
def test_caffenet_pools_before_it_normalises(ending: str, tmp_path: Path) -> None:
    weights, images, file = random_caffe_weights(), rgb_images(), tmp_path / f"net{ending}"
    if ending == ".onnx":
        write_onnx(file, weights, False, pool_first=True)
    else:
        file.write_bytes(caffemodel(weights, layers=caffenet()))
    model = import_file(file, "--image-size", str(SIZE))
    assert model.net.architecture.convs[0].after == ("relu", "pool", "norm")
    assert_computes(model, images, caffe_logits(weights, images.flip(1) - BGR_MEAN, pool_first=True))


def test_what_cannot_be_represented_in_a_caffemodel_is_refused_by_name(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    file, weights = tmp_path / "net.caffemodel", random_caffe_weights()
    for changed, message in (
        (("Pooling", "pool1", {"pool": 1}), "Pooling pool1 pools by the average after a stage before conv5"),
        (("Pooling", "pool1", {"pool": 2}), "Pooling pool1 is not max-pooling with a window"),
        (("Pooling", "pool1", {"size": 2}), "Pooling pool2 has size 3, stride 2, but Pooling pool1 size 2, stride 2"),
        (("Sigmoid", "relu3", {}), "Sigmoid relu3 cannot be represented in an AlexNet"),
    ):
        layers = tuple(changed if layer[1] == changed[1] else layer for layer in BVLC_ALEXNET)
        file.write_bytes(caffemodel(weights, layers=layers))
        assert message in import_error(capsys, file, "--image-size", str(SIZE))
    file.write_bytes(caffemodel(weights, layers=tuple(layer for layer in BVLC_ALEXNET if layer[1] != "conv4")))
    error = import_error(capsys, file, "--image-size", str(SIZE))
    assert "it seems to be AlexNet: it has 4 convolutions and 3 linear layers, not AlexNet's 5 and 3" in error

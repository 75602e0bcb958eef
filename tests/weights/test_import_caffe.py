"""Layers of .caffemodel files are those of a preset, or refused by name."""

from pathlib import Path

import pytest

from alexnet_torch.model.presets import PRESETS
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
    import_error,
    import_file,
    rgb_images,
)
from tests.support.plain_net import grouped_logits

pytestmark = pytest.mark.usefixtures("narrow_presets")


@pytest.mark.parametrize("numbers", [V2, V1], ids=["layer", "layers"])
def test_caffenet_pools_before_it_normalises(numbers: FieldNumbers, tmp_path: Path) -> None:
    weights, images, file = random_caffe_weights(), rgb_images(), tmp_path / "net.caffemodel"
    file.write_bytes(caffemodel(weights, numbers, layers=caffenet()))
    model = import_file(file, "--image-size", str(SIZE))
    assert model.net.architecture == PRESETS["caffenet"]
    assert_computes(model, images, grouped_logits(weights, images.flip(1) - BGR_MEAN, pool_first=True))


@pytest.mark.parametrize("numbers", [V2, V1], ids=["layer", "layers"])
@pytest.mark.parametrize(
    ("changed", "message"),
    [
        (
            ("Convolution", "conv1", {"stride": 2}),
            "conv1 is Convolution of dilation {1}, group 1, pad {0}, stride {2}, not Conv",
        ),
        (("Pooling", "pool1", {"pool": 1}), "pool1 is Pooling of kernel_size 3, pool 1, stride 2, not Pooling"),
        (("Pooling", "pool5", {"size": 2}), "pool5 is Pooling of kernel_size 2, stride 2, not Pooling of kern"),
        (("Sigmoid", "relu3", {}), "relu3 is"),
    ],
    ids=["stride", "average", "size", "sigmoid"],
)
def test_other_layers_than_a_presets_are_refused_by_name(
    changed: tuple[str, str, dict[str, int]],
    message: str,
    numbers: FieldNumbers,
    tmp_path: Path,
    capsys: pytest.CaptureFixture[str],
) -> None:
    file, layers = tmp_path / "net.caffemodel", [changed if each[1] == changed[1] else each for each in BVLC_ALEXNET]
    file.write_bytes(caffemodel(random_caffe_weights(), numbers, layers=tuple(layers)))
    error = import_error(capsys, file, "--image-size", str(SIZE))
    assert "its layers are not those of caffe" in error
    assert message in error


def test_other_constants_and_numbers_of_layers_are_refused(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    file, weights = tmp_path / "net.caffemodel", random_caffe_weights()
    file.write_bytes(caffemodel(weights, alpha=0.1))
    assert "norm1 is LRN of alpha 0.1, beta 0.75, k 1.0, local_size 5, not LRN of" in import_error(capsys, file)
    file.write_bytes(caffemodel(weights, layers=tuple(layer for layer in BVLC_ALEXNET if layer[1] != "conv4")))
    error = import_error(capsys, file)
    assert "it has 4 convolutions and 3 linear layers, not AlexNet's 5 and 3" in error

import json
from dataclasses import asdict, replace

import pytest
import torch

from alexnet_torch import AlexNet
from alexnet_torch.model.architecture import PAPER, Architecture, Conv, Init, Linear, Norm
from alexnet_torch.model.presets import CAFFE, PRESETS, SOURCE_2012, TENSORFLOW_POST
from tests.support.nets import narrow

EVERY_PRESET = pytest.mark.parametrize("net", PRESETS.values(), ids=PRESETS)


def sides(net: Architecture, size: int) -> list[int]:
    return [side for _, side in net.stage_sides(size)]


@pytest.mark.parametrize(
    ("net", "size", "expected"),
    [
        (PAPER, 224, [55, 27, 27, 13, 13, 13, 13, 6]),
        (CAFFE, 227, [55, 27, 27, 13, 13, 13, 13, 6]),
        (CAFFE, 64, [14, 7, 7, 3, 3, 3, 3, 1]),  # 6 and 2 if rounded down, and 0 in the end
        (replace(CAFFE, pool_ceil=("conv5",)), 224, [54, 26, 26, 12, 12, 12, 12, 6]),
        (SOURCE_2012, 224, [55, 27, 27, 13, 13, 13, 13, 6]),
        (SOURCE_2012, 100, [24, 12, 12, 6, 6, 6, 6, 3]),
        (TENSORFLOW_POST, 224, [56, 28, 28, 14, 14, 14, 14, 7]),
    ],
    ids=lambda value: getattr(value, "name", str(value)),
)
def test_sides_of_convolutions_and_poolings(net: Architecture, size: int, expected: list[int]) -> None:
    assert sides(net, size) == expected


@EVERY_PRESET
def test_computed_sides_equal_those_of_torchs_layers_down_to_the_smallest_image(net: Architecture) -> None:
    smallest, few = net.smallest_image(), narrow(net, 2, 2)
    for size in (smallest, *(size for size in (64, 73, 97, 128, 200, 225) if net.fits(size))):
        features = AlexNet(few, 2, size).stage_outputs(torch.zeros(1, 3, size, size), ("conv5", "fc8"))
        assert features["conv5"].shape[-1] == sides(net, size)[-1]
        assert features["fc8"].shape == (1, 2)
    with pytest.raises(ValueError, match=rf"image_size {smallest - 1} .* smallest that works is {smallest}$"):
        AlexNet(few, 2, smallest - 1)


@pytest.mark.parametrize("net", [*PRESETS.values(), replace(CAFFE, pool_ceil=("conv5",))], ids=lambda net: net.name)
def test_an_architecture_survives_json_also_with_the_name_that_fields_had_before_version_1(net: Architecture) -> None:
    text = json.dumps(asdict(net))
    assert Architecture.from_dict(json.loads(text)) == net
    assert Architecture.from_dict(json.loads(text.replace("reads_all_towers", "meet"))) == net


def test_an_unknown_field_is_refused() -> None:
    description = json.loads(json.dumps(asdict(PAPER)))
    with pytest.raises(ValueError, match=r"not an architecture.*colour"):
        Architecture.from_dict({**description, "colour": 1})
    description["convs"][0]["kernell"] = 3
    with pytest.raises(ValueError, match="kernell"):
        Architecture.from_dict(description)


def test_the_2012_source_differs_from_the_paper_as_documented() -> None:
    conv1, conv2, conv3, _, conv5 = SOURCE_2012.convs
    assert conv1.after == ("norm", "pool", "relu")
    assert conv2.after == ("relu", "norm", "spatial_norm", "pool")
    assert conv5.after == ("pool", "relu")
    assert (conv3.init.std, conv5.init.bias) == (0.03, 1.0)
    square = SOURCE_2012.spatial_norm
    assert (square.window, square.alpha, square.beta, square.k) == (5, 0.001, 0.75, 1.0)
    assert SOURCE_2012.norm.alpha / SOURCE_2012.norm.window == pytest.approx(2e-5)
    assert PAPER.norm.alpha / PAPER.norm.window == pytest.approx(1e-4)
    assert (CAFFE.norm.across_towers, CAFFE.norm.k) == (True, 1)


@pytest.mark.parametrize(
    ("make", "message"),
    [
        (lambda: Init(std=0), "Init.std must be positive, not 0"),
        (lambda: Init(bias=None), "Init.bias must be a number, not None"),
        (lambda: Norm(window=4), "Norm.window must be odd and at least 1, not 4"),
        (lambda: Norm(k=0), "Norm.k must be positive, not 0"),
        (lambda: Conv("c", 0, 3), "Conv.channels must be at least 1, not 0"),
        (lambda: Conv("c", 8, 3, stride=0), "Conv.stride must be at least 1, not 0"),
        (lambda: Conv("c", 8, 3, padding=(1, 1, 0, 0)), "Conv.padding must be as much across as down"),
        (lambda: Conv("c", 8, 3, after=("pol",)), "Conv.after must be among .*'pol'"),  # type: ignore[arg-type]
        (lambda: Linear("f", 0), "Linear.width must be at least 1"),
        (lambda: replace(PAPER, towers=0), "Architecture.towers must be at least 1, not 0"),
        (lambda: replace(PAPER, towers=5), "conv1.channels must be a multiple of 5, the number of towers, not 96"),
        (lambda: replace(PAPER, dropout=("fc9",)), "Architecture.dropout must be among .*fc9"),
        (lambda: replace(CAFFE, pool_ceil=("conv9",)), "Architecture.pool_ceil must be among .*conv9"),
        (lambda: replace(PAPER, dropout_rate=1.0), "Architecture.dropout_rate must be in"),
        (lambda: replace(PAPER, linears=PAPER.linears[:2]), "fc7.width must be None"),
        (lambda: replace(PAPER, convs=PAPER.convs * 2), "stage names must differ"),
        (lambda: PAPER.with_init(conv9=Init()), "paper has no stage .*conv9"),
    ],
)
def test_construction_errors_name_the_field_and_its_value(make: object, message: str) -> None:
    assert callable(make)
    with pytest.raises(ValueError, match=message):
        make()

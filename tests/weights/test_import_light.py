"""The networks that the onnx package ships: its AlexNet is read, and errors say what the others are."""

import shutil
from pathlib import Path

import onnx
import onnxruntime
import pytest
import torch
from onnx import helper, numpy_helper
from torch import Tensor

from tests.support.caffe_files import (
    WIDTHS,
    random_caffe_weights,
)
from tests.support.imports import (
    BGR_MEAN,
    assert_computes,
    images_of,
    import_error,
    import_file,
    set_size,
)

LIGHT = Path(onnx.__file__).parent / "backend/test/data/light"
pytestmark = pytest.mark.usefixtures("narrow_presets")


def light_with(weights: dict[str, Tensor] | None, size: int = 224) -> onnx.ModelProto:
    """Returns onnx's light_bvlc_alexnet with narrow layers: of these weights, or of its own single value."""
    model = onnx.load(LIGHT / "light_bvlc_alexnet.onnx")
    shapes = {name: value.shape for name, value in random_light_weights().items()}
    stored = {tensor.name: tensor for tensor in model.graph.initializer}
    stored["OC2_DUMMY_1"].CopyFrom(numpy_helper.from_array(torch.tensor([1, -1]).numpy(), "OC2_DUMMY_1"))
    for name, shape in shapes.items():
        stage, _, kind = name.partition(".")
        own = f"{stage}_{kind[0]}_0"
        if weights is None:
            value = torch.tensor(shape).numpy()
            stored[f"{own}__SHAPE"].CopyFrom(numpy_helper.from_array(value, f"{own}__SHAPE"))
            continue
        model.graph.node.remove(next(node for node in model.graph.node if node.output[0] == own))
        model.graph.initializer.append(numpy_helper.from_array(weights[name].numpy(), own))
    del model.graph.input[1:]  # initialisers with their full shapes, which newer files need not repeat
    model.ir_version = 8
    set_size(model, size)
    del model.graph.output[0].type.tensor_type.shape.dim[:]
    return model


def random_light_weights() -> dict[str, Tensor]:
    weights = random_caffe_weights()
    weights["fc6.weight"] = torch.randn(48, 16 * 36, generator=torch.Generator().manual_seed(3)) * (2 / 576) ** 0.5
    return weights


def test_onnxs_own_alexnet_with_weights_put_in_computes_what_onnxruntime_computes(tmp_path: Path) -> None:
    """At 224 pixels its first poolings round down and its last, with pads 0, 0, 1, 1, rounds up."""
    file, images = tmp_path / "light.onnx", images_of(224)
    model = light_with(random_light_weights())
    onnx.save(model, file)
    imported = import_file(file)
    assert imported.net.architecture.pool_ceil == ("conv5",)
    model.graph.output.append(helper.make_tensor_value_info("r24", onnx.TensorProto.FLOAT, None))  # before softmax
    session = onnxruntime.InferenceSession(model.SerializeToString())
    logits = [session.run(["r24"], {"data_0": (row[None].flip(1) - BGR_MEAN).numpy()})[0] for row in images]
    assert_computes(imported, images, torch.cat(list(map(torch.from_numpy, logits))))


def test_weights_that_the_graph_computes_are_read(tmp_path: Path) -> None:
    file = tmp_path / "light.onnx"
    onnx.save(light_with(None), file)
    net = import_file(file).net
    for name, value in net.state_dict().items():
        assert torch.equal(value, torch.full_like(value, 0.02)), name
    assert [value.shape[0] for value in net.stage_weights("fc7")] == [WIDTHS["fc7"] // 2] * 2


@pytest.mark.slow  # 61 million parameters
def test_onnxs_own_alexnet_is_imported_as_it_is_shipped(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.undo()
    file = tmp_path / "light_bvlc_alexnet.onnx"
    shutil.copy(LIGHT / file.name, file)
    model = import_file(file)
    assert sum(value.numel() for value in model.net.parameters()) == 60_965_224
    assert model.net.architecture.pool_ceil == ("conv5",)


@pytest.mark.parametrize(
    ("name", "message"),
    [
        ("densenet121", "densenet121: it has 121 convolutions and 0 linear layers, and BatchNormalization, Concat"),
        ("inception_v1", "inception_v1: it has 57 convolutions and 1 linear layer, and Concat, not AlexNet's 5 and 3"),
        ("inception_v2", "inception_v2: it has 69 convolutions and 1 linear layer, and BatchNormalization, Concat"),
        ("resnet50", "resnet50: it has 53 convolutions and 1 linear layer, and BatchNormalization, Sum, not"),
        ("shufflenet", "shufflenet: it has 49 convolutions and 1 linear layer, and BatchNormalization, Concat, Sum"),
        ("squeezenet", "squeezenet_old: it has 26 convolutions and 0 linear layers, and Concat, not AlexNet's"),
        ("vgg19", "vgg19: it has 16 convolutions and 3 linear layers, not AlexNet's 5 and 3"),
    ],
)
def test_errors_for_onnxs_other_networks_say_what_they_are(
    name: str, message: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    file = tmp_path / f"light_{name}.onnx"
    shutil.copy(LIGHT / file.name, file)
    assert f"it seems to be {message}" in import_error(capsys, file)


def test_the_error_for_zfnet_names_it_and_its_pooling(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    file = tmp_path / "light_zfnet512.onnx"
    shutil.copy(LIGHT / file.name, file)
    error = import_error(capsys, file)
    assert "seems to be zfnet512: MaxPool n14 has size 2, stride 2, but MaxPool n3 size 3, stride 2" in error

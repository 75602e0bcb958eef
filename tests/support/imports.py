"""Imports weight files by the command, and writes ONNX graphs."""

from pathlib import Path
from typing import Any

import onnx
import pytest
import torch
from onnx import helper, numpy_helper
from torch import Tensor

from alexnet_torch import cli, load_model
from alexnet_torch.weights.model_file import TrainedModel
from tests.support.caffe_files import CLASSES, GROUPS, SIZE

BGR_MEAN = torch.tensor([104.00698793, 116.66876762, 122.67891434]).view(3, 1, 1)


def rgb_images(size: int = SIZE) -> Tensor:
    return torch.randint(0, 256, (2, 3, size, size), generator=torch.Generator().manual_seed(1)).float()


def assert_computes(model: TrainedModel, images: Tensor, expected: Tensor) -> None:
    """Compares the model's logits of RGB images (N, 3, H, W), 0..255, which are centre crops, with the expected."""
    start = (model.mean.shape[0] - images.shape[-1]) // 2
    mean = model.mean[start : start + images.shape[-1], start : start + images.shape[-1]]  # (H, W, 3)
    with torch.no_grad():
        logits = model.net(images - torch.from_numpy(mean).permute(2, 0, 1))
    assert expected.std() > 0.1
    torch.testing.assert_close(logits, expected, rtol=1e-4, atol=1e-4)


def import_file(file: Path, *options: str) -> TrainedModel:
    run = file.with_name(f"{file.name}-run")
    assert cli.main(["import", str(file), "--output", str(run), *options]) == 0
    return load_model(run, ["cpu"])


def import_error(capsys: pytest.CaptureFixture[str], file: Path, *options: str) -> str:
    """Returns import's one line on stderr; checks that its status is 2 and that it creates no folder."""
    capsys.readouterr()
    run = file.with_name("failed-run")
    assert cli.main(["import", str(file), "--output", str(run), *options]) == 2
    error = capsys.readouterr().err
    assert error.count("\n") == 1, error
    assert not run.exists()
    return error


def write_onnx(path: Path, weights: dict[str, Tensor], transposed: bool, pool_first: bool = False) -> None:
    """Writes bvlc_alexnet as a graph of ONNX operators; linear weights are (in, out) if `transposed`."""
    nodes: list[onnx.NodeProto] = []
    stored: list[onnx.TensorProto] = []
    output = "data_0"

    def add(kind: str, *inputs: str, **attributes: Any) -> None:
        nonlocal output
        nodes.append(helper.make_node(kind, [output, *inputs], [f"t{len(nodes)}"], **attributes))
        output = f"t{len(nodes) - 1}"

    def store(stage: str, transpose: bool = False) -> tuple[str, str]:
        names = f"{stage}_w_0", f"{stage}_b_0"
        weight = weights[f"{stage}.weight"]
        stored.append(numpy_helper.from_array((weight.T if transpose else weight).contiguous().numpy(), names[0]))
        stored.append(numpy_helper.from_array(weights[f"{stage}.bias"].numpy(), names[1]))
        return names

    steps: dict[str, dict[str, Any]] = {"LRN": {"size": 5, "alpha": 1e-4, "beta": 0.75, "bias": 1.0}}
    steps["MaxPool"] = {"kernel_shape": [3, 3], "strides": [2, 2]}
    for stage, pad in (("conv1", 0), ("conv2", 2), ("conv3", 1), ("conv4", 1), ("conv5", 1)):
        strides = [4, 4] if stage == "conv1" else [1, 1]
        add("Conv", *store(stage), group=GROUPS.get(stage, 1), pads=[pad] * 4, strides=strides)
        add("Relu")
        if stage in ("conv1", "conv2"):
            for kind in reversed(steps) if pool_first else steps:
                add(kind, **steps[kind])
    add("MaxPool", **steps["MaxPool"])
    add("Flatten")
    for stage in ("fc6", "fc7", "fc8"):
        add("Gemm", *store(stage, transposed), transB=0 if transposed else 1)
        if stage != "fc8":
            add("Relu")
    images = helper.make_tensor_value_info("data_0", onnx.TensorProto.FLOAT, ["N", 3, SIZE, SIZE])
    logits = helper.make_tensor_value_info(output, onnx.TensorProto.FLOAT, ["N", CLASSES])
    graph = helper.make_graph(nodes, "alexnet", [images], [logits], stored)
    onnx.save(helper.make_model(graph, opset_imports=[helper.make_opsetid("", 13)], ir_version=8), path)


def set_size(model: onnx.ModelProto, size: int | str) -> None:
    """Changes the side of a graph's images, or leaves it open under a name."""
    for dim in model.graph.input[0].type.tensor_type.shape.dim[2:]:
        setattr(dim, "dim_param" if isinstance(size, str) else "dim_value", size)

"""The table of layers against the paper's numbers, and against layers that torch makes and counts."""

import csv

import pytest
import torch
from torch import nn

from alexnet_torch import AlexNet
from alexnet_torch.model.layer_table import layer_table
from alexnet_torch.model.presets import PRESETS
from tests.support.commands import one_line, run_cli
from tests.support.nets import narrow
from tests.support.paths import PROJECT


def test_the_papers_numbers() -> None:
    rows = layer_table(PRESETS["paper"])
    assert sum(row.parameters for row in rows) == 60_965_224
    convs = sum(row.multiply_adds for row in rows if row.stage.startswith("conv"))
    assert convs == 665_784_864
    assert convs + sum(row.multiply_adds for row in rows if row.stage.startswith("fc")) == 724_406_816
    assert [row.groups for row in rows] == [1, 2, 1, 2, 2, 1, 1, 1]
    assert [row.pooled for row in rows][:5] == [(96, 27, 27), (256, 13, 13), *[(384, 13, 13)] * 2, (256, 6, 6)]


@pytest.mark.parametrize("name", PRESETS)
def test_against_the_network_itself(name: str) -> None:
    """Every layer's parameters, output shape and multiply-adds are those of the modules of a forward pass."""
    net, seen = AlexNet(narrow(PRESETS[name]), num_classes=7, image_size=96), dict[str, list[int]]()

    def count(stage: str, layer: nn.Module, output: torch.Tensor) -> None:
        weight = layer.weight
        assert isinstance(weight, torch.Tensor)
        places = output[0, 0].numel() if output.dim() == 4 else 1
        parameters = sum(p.numel() for p in layer.parameters())
        row = seen.setdefault(stage, [0, 0, 0])
        row[:] = [row[0] + output.shape[1], row[1] + parameters, row[2] + weight.numel() * places]

    for tower in net.towers.values():
        for stage in net.architecture.stage_names:
            layer = tower.get_submodule(stage)
            layer.register_forward_hook(lambda module, _, output, stage=stage: count(stage, module, output))
    with torch.no_grad():
        net.eval()(torch.zeros(1, 3, 96, 96))
    table = layer_table(net.architecture, 7, 96)
    assert {row.stage: [row.output[0], row.parameters, row.multiply_adds] for row in table} == seen


def test_command() -> None:
    table = run_cli("layers").stdout
    assert table in (PROJECT / "docs/questions.md").read_text()
    assert table.splitlines()[-1].split() == ["all", "60,965,224", "724,406,816"]
    rows = list(csv.DictReader(run_cli("layers", "caffe", "--csv", "--image-size", "227").stdout.splitlines()))
    assert rows[0] | {"stage": "conv1", "output": "96x55x55", "padding": "0x0x0x0"} == rows[0]
    one_line(run_cli("layers", "lenet"), "lenet")

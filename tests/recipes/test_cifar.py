"""The recipes for CIFAR-10: nets and training of cuda-convnet's layer files, written again with torch's functions."""

import re
from collections.abc import Callable
from pathlib import Path

import pytest
import torch
import torch.nn.functional as F
from torch import Tensor

from alexnet_torch import AlexNet, load_model, plain
from alexnet_torch.evaluation.scoring import default_num_crops
from alexnet_torch.recipes.catalogue import cifar_18, cifar_26
from alexnet_torch.recipes.recipe import Recipe
from alexnet_torch.training.optimizers import parameter_groups
from tests.support.commands import read_metrics, run_train
from tests.support.folders import make_images
from tests.support.nets import with_random_weights
from tests.support.paths import SHARED_DATA


def avg_pool(x: Tensor) -> Tensor:
    """cuda-convnet's: 3x3 windows at every second pixel, divided by the pixels inside the image."""
    places = range(0, x.shape[2] - 1, 2)
    rows = [torch.stack([x[:, :, i : i + 3, j : j + 3].mean((2, 3)) for j in places], 2) for i in places]
    return torch.stack(rows, 2)


def norm(x: Tensor) -> Tensor:
    """cuda-convnet's norm within a channel: 5e-5 / 9 times the sum of squares in 3x3 pixels."""
    sums = F.conv2d(F.pad(x * x, (1, 1, 1, 1)).flatten(0, 1)[:, None], torch.ones(1, 1, 3, 3, dtype=x.dtype))
    return x / (1 + 5e-5 / 9 * sums.view_as(x)) ** 0.75


def reference(net: AlexNet, images: Tensor, between: Callable[[Tensor], Tensor]) -> Tensor:
    weights = {name.removeprefix("towers.0."): p for name, p in net.named_parameters()}
    x = F.conv2d(images, weights["conv1.weight"], weights["conv1.bias"], padding=2)
    x = between(F.relu(F.max_pool2d(x, 3, 2, ceil_mode=True)))
    x = between(avg_pool(F.relu(F.conv2d(x, weights["conv2.weight"], weights["conv2.bias"], padding=2))))
    x = avg_pool(F.relu(F.conv2d(x, weights["conv3.weight"], weights["conv3.bias"], padding=2))).flatten(1)
    x = F.linear(x, weights["fc4.weight"], weights["fc4.bias"])
    return F.linear(F.relu(x), weights["fc5.weight"], weights["fc5.bias"]) if "fc5.bias" in weights else x


@pytest.mark.parametrize(("recipe", "between"), [(cifar_26(), lambda x: x), (cifar_18(), norm)])
def test_the_nets_are_those_of_the_layer_files(recipe: Recipe, between: Callable[[Tensor], Tensor]) -> None:
    net = with_random_weights(AlexNet(recipe.architecture, 10, 32).double())
    images = 30 * torch.randn(4, 3, 32, 32, dtype=torch.float64)
    weights, outputs = list(net.parameters()), [net(images), reference(net, images, between)]
    torch.testing.assert_close(*outputs, rtol=1e-10, atol=1e-10)
    ours, theirs = (torch.autograd.grad(output.square().sum(), weights) for output in outputs)
    torch.testing.assert_close(ours, theirs, rtol=1e-9, atol=1e-9)
    torch.testing.assert_close(plain(net)(images), outputs[0])


def test_decay_and_rates_are_those_of_the_layer_files() -> None:
    decays = []
    for recipe in (cifar_26(), cifar_18()):
        net = AlexNet(recipe.architecture, 10, 32)
        groups = parameter_groups(net, recipe.bias_decay, recipe.weight_decay, recipe.stage_decay)
        assert {g["weight_decay"] for g in groups if g["kind"] == "bias"} == {0}
        decays.append([g["weight_decay"] for g in groups if g["kind"] == "weight"])
        assert recipe.rates(0.001, 0, []).biases == 0.002
    assert decays == [[0.004] * 3 + [0.03] * 2, [0.004] * 3 + [1.0]]
    rates = [cifar_26().rates(0.001, epoch, []).weights for epoch in (0, 7.9, 8, 9.9)]
    assert rates == pytest.approx([0.001, 0.001, 0.0001, 0.0001])
    rates = [cifar_18().rates(0.001, epoch, []).weights for epoch in (119, 120, 130)]
    assert rates == pytest.approx([0.001, 0.0001, 0.00001])


def test_whole_images_are_trained_and_tested(tmp_path: Path) -> None:
    images = make_images(tmp_path / "images", size=(32, 32))
    done = run_train("--data", images, "--recipe", "cifar-26", "--epochs", "2", "--output", tmp_path / "run")
    assert done.returncode == 0, done.stderr
    model = load_model(tmp_path / "run")
    assert model.mean.shape == (32, 32, 3)
    assert default_num_crops([model]) == 1
    assert [report["step"] for report in read_metrics(tmp_path / "run") if report["split"] == "val"] == [1, 2]
    assert re.search(r"best weights, of step \d, .*: top-1 error [\d.]+%$", done.stdout, re.M)


@pytest.mark.slow
def test_500_steps_learn_as_much_as_caffes_published_run(tmp_path: Path) -> None:
    """Caffe's cifar10_quick at step 500: loss 1.278, accuracy 55.0% of the test images (its tutorial's log)."""
    data = SHARED_DATA / "cifar-10.zip"
    if not data.is_file():
        pytest.skip("cifar-10.zip is not beside the project")
    run = tmp_path / "run"
    done = run_train("--data", data, "--recipe", "cifar-26", "--max-steps", "500", "--output", run)
    assert done.returncode == 0, done.stderr
    last = [report for report in read_metrics(run) if report["split"] == "val"][-1]
    assert last["loss"] == pytest.approx(1.278, abs=0.05)
    assert 1 - last["top1_error"] == pytest.approx(0.550, abs=0.025)

"""The plain network computes in every stage what the towers compute, and torch's own tools accept it."""

import copy
from collections.abc import Callable
from dataclasses import replace
from io import BytesIO

import numpy as np
import pytest
import torch
from torch import Tensor, fx, nn

from alexnet_torch import AlexNet, plain
from alexnet_torch.model.architecture import PAPER, Architecture, Conv, Linear, Norm
from alexnet_torch.model.exchange import Exchange
from alexnet_torch.model.presets import PRESETS, TORCHVISION
from alexnet_torch.recipes.recipe import ARCHITECTURE_CHANGES
from alexnet_torch.weights.model_file import TrainedModel
from tests.support.nets import narrow, with_random_weights

ODD = Architecture(
    "odd",
    convs=(
        Conv("conv1", 8, 3, 2, (1, 2, 2, 1), after=("pool", "relu", "pool", "norm")),
        Conv("last", 8, 3, 1, (1, 1, 1, 1), reads_all_towers=True, after=("tanh", "spatial_norm")),
    ),
    linears=(Linear("fc3", 8, reads_all_towers=False), Linear("out", None, reads_all_towers=False)),
    norm=Norm(window=7, across_towers=True),
    dropout=("last", "fc3"),
    adaptive_pool=2,
    input_scale=0.02,
)
"""What no preset has: repeated operations, names without numbers, linear stages that do not meet, odd classes."""

ARCHITECTURES = [
    *PRESETS.values(),
    *(replace(change(PAPER), name=name) for name, change in ARCHITECTURE_CHANGES.items()),
    replace(PAPER, name="scaled", input_scale=0.25),
]


def random_net(architecture: Architecture, size: int = 64) -> AlexNet:
    net = AlexNet(narrow(architecture) if architecture is not ODD else ODD, 5, size)
    return with_random_weights(net, gain=2**0.5, bias_std=0.5**0.5).eval()


def random_images(n: int, size: int = 64) -> Tensor:
    return torch.randint(0, 256, (n, 3, size, size), generator=torch.Generator().manual_seed(1)).float() - 120


def last_modules(sequence: nn.Sequential, net: Architecture) -> dict[str, str]:
    """The last module of each stage before adaptive pooling and dropout, found by the modules' order."""
    last, stage = {}, net.stage_names[0]
    for name, _ in sequence.named_children():
        stage = name if name in net.stage_names else stage
        if not name.startswith(("pad", "avgpool", "drop", "flatten")):
            last[stage] = name
    return last


def outputs_of(sequence: nn.Sequential, x: Tensor) -> dict[str, Tensor]:
    """Runs the modules one by one."""
    return {name: (x := module(x)) for name, module in sequence.named_children()}


@pytest.mark.parametrize("architecture", [*ARCHITECTURES, ODD], ids=lambda architecture: architecture.name)
def test_every_stage_equals_the_towers_output(architecture: Architecture) -> None:
    net = random_net(architecture)
    sequence, images = plain(net), random_images(3)
    with torch.no_grad():
        outputs, logits = outputs_of(sequence, images), sequence(images)
        for stage, module in last_modules(sequence, net.architecture).items():
            expected = net.features(images, stage)
            assert outputs[module].shape == expected.shape
            largest = float(expected.abs().max())
            assert largest > 0
            # float32 sums in another order
            torch.testing.assert_close(outputs[module], expected, rtol=0, atol=1e-5 * largest)
        assert torch.equal(logits, list(outputs.values())[-1])
    x = (images / 100).requires_grad_()  # 0..255 saturates tanh
    gradients = [torch.autograd.grad(f(x).logsumexp(1).sum(), x)[0] for f in (net, sequence)]
    torch.testing.assert_close(gradients[1], gradients[0], rtol=0, atol=1e-4 * float(gradients[0].abs().max()))


def test_the_papers_full_network_has_the_stages_in_order() -> None:
    sequence = plain(AlexNet(seed=0))
    names = [name for name, _ in sequence.named_children()]
    assert names[:10] == ["pad1", "conv1", "relu1", "norm1", "pool1", "conv2", "relu2", "norm2", "pool2", "conv3"]
    assert names[10:16] == ["relu3", "conv4", "relu4", "conv5", "relu5", "pool5"]
    assert names[16:] == ["flatten", "fc6", "relu6", "drop6", "fc7", "relu7", "drop7", "fc8"]
    assert sum(parameter.numel() for parameter in sequence.parameters()) == 60_965_224


def test_it_is_a_copy_that_moves_and_keeps_type_and_mode() -> None:
    net = random_net(PAPER).double().train()
    sequence, before = plain(net), {name: value.clone() for name, value in net.state_dict().items()}
    assert sequence.training
    assert {value.dtype for value in sequence.state_dict().values()} == {torch.float64}
    for parameter in sequence.parameters():
        assert parameter.requires_grad
        parameter.data.zero_()
    assert all(torch.equal(before[name], value) for name, value in net.state_dict().items())
    on_meta = copy.deepcopy(plain(net.eval())).to("meta")
    assert on_meta(torch.zeros(2, 3, 64, 64, device="meta", dtype=torch.float64)).shape == (2, 5)
    one_tower = AlexNet(narrow(TORCHVISION), 5, 64)
    plain(one_tower).state_dict()["conv1.weight"].zero_()
    assert all(value.any() for name, value in one_tower.state_dict().items() if name.endswith("conv1.weight"))


def test_images_of_0_to_1_with_the_mean_inside() -> None:
    net = random_net(PAPER, 67)
    mean = np.random.default_rng(0).uniform(0, 255, (76, 76, 3)).astype(np.float32)
    model = TrainedModel(net, tuple("abcde"), mean)
    sequence = plain(model, unit_range=True)
    assert list(sequence.state_dict()) == list(plain(net).state_dict())  # the mean image is not in it
    pixels, mean_inside = random_images(3, 67) + 120, sequence.get_buffer("input.mean")
    with torch.no_grad():
        expected = net(pixels - torch.from_numpy(mean[4:71, 4:71]).permute(2, 0, 1))
        atol = 1e-5 * float(expected.abs().max())
        torch.testing.assert_close(sequence(pixels / 255), expected, rtol=0, atol=atol)
        torch.testing.assert_close(plain(model)(pixels - mean_inside), expected, rtol=0, atol=atol)
    assert sequence.to("meta").get_buffer("input.mean").device.type == "meta"


def test_wrong_arguments_are_ordinary_errors() -> None:
    with pytest.raises(TypeError, match="net_or_model must be an AlexNet or a TrainedModel, not Linear"):
        plain(nn.Linear(1, 1))  # type: ignore[arg-type]
    with pytest.raises(ValueError, match="unit_range needs a mean image: pass the model that load_model returns"):
        plain(random_net(PAPER), unit_range=True)
    exchange = Exchange(2)
    exchange.shards = exchange.shards[:1]
    with pytest.raises(ValueError, match="holds only a part of its parameters"):
        plain(AlexNet(narrow(PAPER), 5, 64, exchange=exchange))


@pytest.fixture(scope="module", params=["source_2012", "never-meet"])
def sequence(request: pytest.FixtureRequest) -> nn.Sequential:
    (architecture,) = (a for a in ARCHITECTURES if a.name == request.param)
    mean = np.full((73, 73, 3), 120, np.float32)
    return plain(TrainedModel(random_net(architecture), tuple("abcde"), mean), unit_range=True)


def scripted(sequence: nn.Sequential) -> Callable[[Tensor], Tensor]:
    torch.jit.save(torch.jit.script(sequence), file := BytesIO())
    file.seek(0)
    return torch.jit.load(file)  # type: ignore[no-any-return]


def jit_traced(sequence: nn.Sequential) -> Callable[[Tensor], Tensor]:
    return torch.jit.trace(sequence, torch.rand(2, 3, 64, 64))  # type: ignore[no-any-return]


def exported(sequence: nn.Sequential) -> Callable[[Tensor], Tensor]:
    batch = {"input": {0: torch.export.Dim("batch")}}
    return torch.export.export(sequence, (torch.rand(2, 3, 64, 64),), dynamic_shapes=batch).module()


@pytest.mark.parametrize("convert", [fx.symbolic_trace, scripted, jit_traced, exported])
def test_torchs_tools_take_it(
    convert: Callable[[nn.Sequential], Callable[[Tensor], Tensor]], sequence: nn.Sequential
) -> None:
    function = convert(sequence)
    for n in (1, 33):
        images = torch.rand(n, 3, 64, 64, generator=torch.Generator().manual_seed(n))
        with torch.no_grad():
            expected = sequence(images)
            torch.testing.assert_close(function(images), expected, rtol=0, atol=1e-5 * float(expected.abs().max()))

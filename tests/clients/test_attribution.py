"""Clients that explain a network's output by its image, most of them with hooks on modules."""

from typing import Any

import numpy as np
import torch
import torch.nn.functional as F
from captum.attr import DeepLift, GuidedBackprop, IntegratedGradients, LayerGradCam
from lucent.optvis import render
from pytorch_grad_cam import GradCAM
from pytorch_grad_cam.utils.model_targets import ClassifierOutputTarget
from torch import Tensor, nn

from alexnet_torch import AlexNet
from alexnet_torch.model.presets import TORCHVISION
from tests.clients.networks import CLASSES, SIZE, Networks, client, make_images, make_net, on_both
from tests.clients.reference import assert_near, float64_weights, stage_outputs

TARGETS = torch.tensor([1, 4])


class GuidedReLU(torch.autograd.Function):
    """ReLU whose backward pass passes on only positive gradients."""

    @staticmethod
    def forward(ctx: Any, x: Tensor) -> Tensor:
        ctx.save_for_backward(x)
        return x.clamp(min=0)

    @staticmethod
    def backward(ctx: Any, *grads: Tensor) -> Tensor:
        (x,) = ctx.saved_tensors
        grad: Tensor = grads[0].clamp(min=0) * (x > 0)
        return grad


def image_gradient(weights: dict[str, Tensor], images: Tensor, relu: Any = F.relu) -> Tensor:
    images = images.double().requires_grad_()
    chosen = stage_outputs(weights, images, relu)["fc8"].gather(1, TARGETS[:, None]).sum()
    return torch.autograd.grad(chosen, images)[0]


def class_activation_maps(weights: dict[str, Tensor], images: Tensor) -> Tensor:
    """Grad-CAM at relu5, (N, 3, 3)."""
    outputs = stage_outputs(weights, images)
    maps, chosen = outputs["relu5"], outputs["fc8"].gather(1, TARGETS[:, None]).sum()
    (gradient,) = torch.autograd.grad(chosen, maps)
    return F.relu((gradient.mean((2, 3), keepdim=True) * maps).sum(1)).detach()


@client("captum", "`IntegratedGradients`", "captum")
@on_both()
def test_integrated_gradients(network: Networks) -> None:
    net, images = make_net(), make_images(2)
    attributions = IntegratedGradients(network(net)).attribute(images, target=TARGETS, n_steps=20)
    nodes, shares = np.polynomial.legendre.leggauss(20)
    weights = float64_weights(net)
    gradient = sum(
        image_gradient(weights, images * (1 + node) / 2) * share / 2 for node, share in zip(nodes, shares, strict=True)
    )
    assert_near(attributions, images.double() * gradient, 1e-3)


@client("captum", "`GuidedBackprop`", "captum")
@on_both(AlexNet="ReLU is no module; the result equals the plain gradient, without an error")
def test_guided_backprop(network: Networks) -> None:
    net, images = make_net(), make_images(2)
    attributions = GuidedBackprop(network(net)).attribute(images.requires_grad_(), target=TARGETS)
    assert_near(attributions, image_gradient(float64_weights(net), images.detach(), GuidedReLU.apply), 1e-3)


def deep_lift(model: nn.Module) -> Tensor:
    images = make_images(2)
    attributions: Tensor = DeepLift(model).attribute(images, torch.zeros_like(images), target=TARGETS)
    return attributions


def sequence_without_norm(net: AlexNet) -> nn.Sequential:
    """The network that `make_net(TORCHVISION)` makes, of torch's modules."""
    layers: list[nn.Module] = []
    for index, (kernel, stride, padding) in enumerate(((11, 4, 2), (5, 1, 2), (3, 1, 1), (3, 1, 1), (3, 1, 1))):
        layers += [nn.Conv2d(16 if index else 3, 16, kernel, stride, padding), nn.ReLU()]
        layers += [nn.MaxPool2d(3, 2)] if index in (0, 1, 4) else []
    layers += [nn.AdaptiveAvgPool2d(6), nn.Flatten()]
    layers += [nn.Linear(576, 64), nn.ReLU(), nn.Linear(64, 64), nn.ReLU(), nn.Linear(64, CLASSES)]
    sequence = nn.Sequential(*layers)
    with torch.no_grad():
        for parameter, value in zip(sequence.parameters(), net.parameters(), strict=True):
            parameter.copy_(value)
    return sequence


@client("captum", "`DeepLift`, network without normalisation (TORCHVISION)", "captum")
@on_both(AlexNet="ReLU and pooling are no modules; the result is the gradient times the image, without an error")
def test_deep_lift(network: Networks) -> None:
    net = make_net(TORCHVISION)
    assert_near(deep_lift(network(net)), deep_lift(sequence_without_norm(net)).double())


_NO_RULE = "captum has no rule for response normalisation; a large part is left unexplained, without an error"


@client("captum", "`DeepLift`, the paper's network", "captum")
@on_both(AlexNet=_NO_RULE, plain=_NO_RULE)
def test_deep_lift_with_norm(network: Networks) -> None:
    model, images = network(make_net()), make_images(2)
    with torch.no_grad():
        explained = (model(images) - model(torch.zeros_like(images))).gather(1, TARGETS[:, None])[:, 0]
    # overlapping pooling leaves up to 1% unexplained in torchvision's network too
    assert_near(deep_lift(model).sum((1, 2, 3)), explained.double(), 0.02)


@client("captum", "`LayerGradCam` at relu5", "captum")
@on_both(AlexNet="no module puts out the maps of both towers")
def test_layer_grad_cam(network: Networks) -> None:
    net, images = make_net(), make_images(2)
    model = network(net)
    cams = LayerGradCam(model, model.get_submodule("relu5")).attribute(images, target=TARGETS, relu_attributions=True)
    assert_near(cams[:, 0], class_activation_maps(float64_weights(net), images))


@client("grad-cam", "`GradCAM` at relu5", "grad-cam")
@on_both(AlexNet="no module puts out the maps of both towers")
def test_grad_cam(network: Networks) -> None:
    net, images = make_net(), make_images(2)
    model = network(net)
    with GradCAM(model=model, target_layers=[model.get_submodule("relu5")]) as cam:
        shown = cam(input_tensor=images, targets=[ClassifierOutputTarget(int(target)) for target in TARGETS])
    maps = class_activation_maps(float64_weights(net), images)
    maps = maps - maps.amin((1, 2), keepdim=True)
    maps = F.interpolate((maps / maps.amax((1, 2), keepdim=True))[:, None], (SIZE, SIZE), mode="bilinear")
    maps = maps - maps.amin((2, 3), keepdim=True)
    assert_near(torch.from_numpy(shown), (maps / maps.amax((2, 3), keepdim=True))[:, 0], 1e-4)


@client("lucent", "`render_vis` of a channel of relu5", "torch-lucent")
@on_both(AlexNet="no module puts out the maps of both towers")
def test_lucent(network: Networks) -> None:
    net, start = make_net(), make_images(1)
    weights, at = float64_weights(net), start.double().requires_grad_()
    maps = stage_outputs(weights, at)["relu5"].mean((0, 2, 3))
    channel = int(maps.argsort()[len(maps) // 2])  # neither dead nor the largest
    (gradient,) = torch.autograd.grad(maps[channel], at)
    image = start.clone().requires_grad_()
    (shown,) = render.render_vis(
        network(net),
        f"relu5:{channel}",
        lambda: ([image], lambda: image),
        lambda parameters: torch.optim.SGD(parameters, float(1 / gradient.abs().max())),
        transforms=[],
        thresholds=(1,),
        preprocess=False,
        progress=False,
        show_image=False,
        fixed_image_size=SIZE,
    )
    assert_near(torch.from_numpy(shown).permute(0, 3, 1, 2) - start, gradient / gradient.abs().max(), 1e-3)

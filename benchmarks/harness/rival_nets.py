"""The nets and the training step that people write, which ours is compared with."""

from collections.abc import Callable

import torch
import torch.nn.functional as F
import torchvision
from torch import Tensor, nn


def plain_net(channels_last: bool = False, norm: bool = True, classes: int = 1000) -> nn.Module:
    """Returns the paper's net in one tower of grouped convolutions, with torch's own layers, with or without norm."""
    norms = [nn.LocalResponseNorm(5, 5e-4, 0.75, 2.0)] if norm else []
    net = nn.Sequential(
        nn.ZeroPad2d((0, 3, 0, 3)),
        *(nn.Conv2d(3, 96, 11, 4), nn.ReLU(inplace=True), *norms, nn.MaxPool2d(3, 2)),
        *(nn.Conv2d(96, 256, 5, padding=2, groups=2), nn.ReLU(inplace=True), *norms, nn.MaxPool2d(3, 2)),
        *(nn.Conv2d(256, 384, 3, padding=1), nn.ReLU(inplace=True)),
        *(nn.Conv2d(384, 384, 3, padding=1, groups=2), nn.ReLU(inplace=True)),
        *(nn.Conv2d(384, 256, 3, padding=1, groups=2), nn.ReLU(inplace=True), nn.MaxPool2d(3, 2), nn.Flatten()),
        *(nn.Linear(9216, 4096), nn.ReLU(inplace=True), nn.Dropout()),
        *(nn.Linear(4096, 4096), nn.ReLU(inplace=True), nn.Dropout()),
        nn.Linear(4096, classes),
    )
    return net.to(memory_format=torch.channels_last) if channels_last else net


def torchvision_net() -> nn.Module:
    """Returns torchvision's alexnet with random weights, channels_last."""
    net: nn.Module = torchvision.models.alexnet()
    return net.to(memory_format=torch.channels_last)


def plain_step(net: nn.Module, amp: str | None = None) -> Callable[[Tensor, Tensor], None]:
    """Returns a training step as in torch's own examples; `amp` is None or "bf16"."""
    optimizer = torch.optim.SGD(net.parameters(), 1e-3, 0.9, weight_decay=5e-4)
    net.train()

    def step(images: Tensor, labels: Tensor) -> None:
        with torch.autocast(images.device.type, torch.bfloat16, enabled=amp is not None):
            loss = F.cross_entropy(net(images), labels)
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()

    return step

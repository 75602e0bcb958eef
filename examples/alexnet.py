"""AlexNet in one file, top to bottom, with the section of the paper beside each part.

    python examples/alexnet.py --data FOLDER

The paper: Krizhevsky, Sutskever, Hinton, "ImageNet classification with deep convolutional neural networks", 2012.
FOLDER has images in train/<class>/ and val/<class>/. With two GPUs each has one tower of the network, as in the paper;
with one or none, it or the CPU has both. A small folder of images learns in minutes with
`--size 64 --batch-size 32 --lr 0.004 --epochs 24`.

This file needs torch and torchvision only. The package beside it, alexnet_torch, computes the same: faster, in more
ways, and through failures. Parameters have the same names in both, so each loads the other's state dict.
"""

import argparse
import os
import time
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn
from torch.optim.lr_scheduler import ReduceLROnPlateau
from torch.utils.data import DataLoader
from torchvision.datasets import ImageFolder
from torchvision.datasets.folder import find_classes
from torchvision.transforms import CenterCrop, Compose, PILToTensor, Resize

# The network ----------------------------------------------------------------------------------------------------------


def normalise(x: Tensor) -> Tensor:
    """3.3 Local response normalization: b = a / (2 + 1e-4 * sum of a^2 over 5 neighbouring channels)^0.75."""
    return F.local_response_norm(x, size=5, alpha=5 * 1e-4, beta=0.75, k=2)  # torch divides alpha by the size


def pool(x: Tensor) -> Tensor:
    """3.4 Overlapping pooling: windows of 3x3 are only 2 pixels apart."""
    return F.max_pool2d(x, kernel_size=3, stride=2)


class Tower(nn.Module):
    """3.5 Overall architecture: one half of it, with half of each stage's channels, for one device."""

    def __init__(self, classes: int, side: int) -> None:
        super().__init__()
        self.conv1 = nn.Conv2d(3, 48, 11, stride=4)
        self.conv2 = nn.Conv2d(48, 128, 5, padding=2)
        self.conv3 = nn.Conv2d(2 * 128, 192, 3, padding=1)  # reads both towers, as do fc6, fc7 and fc8
        self.conv4 = nn.Conv2d(192, 192, 3, padding=1)
        self.conv5 = nn.Conv2d(192, 128, 3, padding=1)
        self.fc6 = nn.Linear(2 * 128 * side * side, 2048)
        self.fc7 = nn.Linear(2 * 2048, 2048)
        self.fc8 = nn.Linear(2 * 2048, classes)


class AlexNet(nn.Module):
    """Two towers, which exchange their outputs before conv3, fc6, fc7 and fc8, and nowhere else (3.2, figure 2)."""

    def __init__(self, classes: int = 1000, size: int = 224, devices: Sequence[str] = ("cpu", "cpu")) -> None:
        super().__init__()
        side = (size + 3 - 11) // 4 + 1  # of a map: 55 after conv1
        for _ in range(3):
            side = (side - 3) // 2 + 1  # 27, 13 and 6 after the three poolings
        self.devices, halves = devices, (classes - classes // 2, classes // 2)
        self.towers = nn.ModuleList(Tower(n, side).to(device) for n, device in zip(halves, devices, strict=True))
        for tower in self.towers:
            for name, layer in tower.named_children():
                initialise(name, layer)

    def forward(self, images: Tensor) -> Tensor:
        """Returns logits (N, classes) of images (N, 3, size, size), on the first device."""
        # 224 pixels make 55 windows of 11, 4 apart, with 3 more on the right and at the bottom, as in the authors' code
        images = F.pad(images, (0, 3, 0, 3))
        x = [images.to(device) for device in self.devices]
        x = self.on_each(lambda t, x: pool(normalise(F.relu(t.conv1(x)))), x)
        x = self.on_each(lambda t, x: pool(normalise(F.relu(t.conv2(x)))), x)
        x = self.on_each(lambda t, x: F.relu(t.conv3(x)), exchange(x))
        x = self.on_each(lambda t, x: F.relu(t.conv4(x)), x)
        x = self.on_each(lambda t, x: pool(F.relu(t.conv5(x))).flatten(1), x)
        x = self.on_each(lambda t, x: F.dropout(F.relu(t.fc6(x)), 0.5, self.training), exchange(x))  # 4.2 Dropout
        x = self.on_each(lambda t, x: F.dropout(F.relu(t.fc7(x)), 0.5, self.training), exchange(x))
        x = self.on_each(lambda t, x: t.fc8(x), exchange(x))
        return exchange(x)[0]

    def on_each(self, stage: Callable[[Any, Tensor], Tensor], inputs: list[Tensor]) -> list[Tensor]:
        """Runs a stage on each tower; on two GPUs both compute at once, as neither call waits for its result."""
        return [stage(tower, x) for tower, x in zip(self.towers, inputs, strict=True)]


def exchange(x: list[Tensor]) -> list[Tensor]:
    """3.2 Training on multiple GPUs: gives each tower the channels of both. Autograd sends the gradients back."""
    return [torch.cat([part.to(own.device) for part in x], dim=1) for own in x]


def initialise(name: str, layer: nn.Module) -> None:
    """5 Details of learning: draws initial weights, and sets biases that give the first ReLUs positive inputs.

    The paper has a standard deviation of 0.01 and biases of 1, with which a small folder of images stays at chance.
    """
    assert isinstance(layer, nn.Conv2d | nn.Linear)
    assert layer.bias is not None
    nn.init.normal_(layer.weight, std=0.01 if name in ("conv1", "fc8") else 0.7 * layer.weight[0].numel() ** -0.5)
    nn.init.constant_(layer.bias, 0.1 if name in ("conv2", "conv4", "conv5", "fc6", "fc7") else 0.0)


# The images -----------------------------------------------------------------------------------------------------------


def loader(folder: Path, size: int, batch_size: int, shuffle: bool = False) -> DataLoader[tuple[Tensor, Tensor]]:
    """2 The dataset: scales the shorter side of each image to 256 pixels and cuts out the central square.

    A batch is squares (N, 3, 256, 256) uint8 with labels (N,). For crops of another size than 224 all is in proportion.
    """
    side = round(size * 256 / 224)
    images = ImageFolder(str(folder), Compose([Resize(side), CenterCrop(side), PILToTensor()]))
    return DataLoader(images, batch_size, shuffle, num_workers=min(8, os.cpu_count() or 1))


def mean_and_components(batches: DataLoader[tuple[Tensor, Tensor]]) -> tuple[Tensor, Tensor]:
    """Returns the mean of the training images (3, 256, 256), and the principal components of their RGB (3, 3).

    A component is an eigenvector of the covariance times its eigenvalue. The paper's values are in 0..1: hence the 255.
    """
    count, total, products = 0, torch.zeros(()).double(), torch.zeros(3, 3).double()
    for squares, _ in batches:
        pixels = squares.double().movedim(1, 0).flatten(1)  # (3, N * 256 * 256)
        count, total, products = count + len(squares), total + squares.double().sum(0), products + pixels @ pixels.T
    mean = total / count
    rgb = mean.mean((1, 2))
    eigenvalues, eigenvectors = torch.linalg.eigh(products / (count * mean[0].numel()) - rgb.outer(rgb))
    return mean.float(), (eigenvectors * eigenvalues / 255).float()


def crop(squares: Tensor, mean: Tensor, top: Tensor, left: Tensor, mirrored: Tensor, size: int) -> Tensor:
    """Returns crops (N, 3, size, size) of squares less the mean image; top, left and mirrored are (N,)."""
    steps = torch.arange(size, device=mean.device)
    rows = top[:, None] + steps  # (N, size)
    columns = left[:, None] + torch.where(mirrored[:, None], size - 1 - steps, steps)
    images = torch.arange(len(squares), device=mean.device)[:, None, None]
    return (squares - mean)[images, :, rows[:, :, None], columns[:, None, :]].permute(0, 3, 1, 2)


def augment(squares: Tensor, mean: Tensor, components: Tensor, size: int) -> Tensor:
    """4.1 Data augmentation: crops at random places, half of them mirrored, and a random shift of each image's RGB."""
    n, places, device = len(squares), squares.shape[-1] - size + 1, squares.device
    top, left = torch.randint(places, (2, n), device=device)
    crops = crop(squares, mean, top, left, torch.rand(n, device=device) < 0.5, size)
    shift = components.new_empty(n, 3).normal_(std=0.1) @ components.T
    return crops + shift[:, :, None, None]


def validation_crops(squares: Tensor, mean: Tensor, size: int, ten: bool) -> list[Tensor]:
    """4.1: returns the crops at the centre and in the four corners, and their mirror images; or the centre's alone."""
    last = squares.shape[-1] - size
    places = [(last // 2, last // 2), (0, 0), (0, last), (last, 0), (last, last)]
    ten_places = [(*place, mirrored) for mirrored in (0, 1) for place in places]
    of_all = torch.tensor(ten_places[: 10 if ten else 1], device=squares.device)[:, :, None].expand(-1, 3, len(squares))
    return [crop(squares, mean, top, left, mirrored > 0, size) for top, left, mirrored in of_all]


# Learning -------------------------------------------------------------------------------------------------------------


class PaperSGD(torch.optim.Optimizer):
    """5 Details of learning: v <- 0.9 v - 0.0005 lr w - lr gradient, then w <- w + v.

    torch.optim.SGD multiplies v by the rate instead, so a lower rate shortens what earlier steps left in it, too.
    """

    def __init__(self, parameters: Sequence[nn.Parameter], lr: float) -> None:
        super().__init__(parameters, {"lr": lr})

    @torch.no_grad()
    def step(self, closure: Callable[[], float] | None = None) -> None:  # type: ignore[override]
        """Updates all weights and biases."""
        del closure
        for group in self.param_groups:
            for w in group["params"]:
                v = self.state[w].setdefault("velocity", torch.zeros_like(w))
                v.mul_(0.9).add_(w, alpha=-0.0005 * group["lr"]).add_(w.grad, alpha=-group["lr"])
                w.add_(v)


def train_step(net: AlexNet, optimizer: torch.optim.Optimizer, images: Tensor, labels: Tensor) -> Tensor:
    """5: returns the mean of -log p(label) over a batch, after a step against its gradient."""
    loss = F.cross_entropy(net(images), labels)
    optimizer.zero_grad()
    loss.backward()
    optimizer.step()
    return loss.detach()


@torch.no_grad()
def errors(net: AlexNet, batches: DataLoader[tuple[Tensor, Tensor]], mean: Tensor, size: int, ten: bool) -> list[float]:
    """Returns the top-1 and top-5 error, in per cent, of the mean of the softmax over an image's crops."""
    wrong, count = torch.zeros(2), 0
    net.eval()
    for squares, labels in batches:
        crops = validation_crops(squares.to(mean.device), mean, size, ten)
        mean_softmax = torch.stack([net(images).softmax(1) for images in crops]).mean(0)
        ranked = mean_softmax.argsort(1, descending=True).cpu() == labels[:, None]  # (N, classes)
        wrong += torch.stack([~ranked[:, :k].any(1) for k in (1, 5)]).sum(1)
        count += len(labels)
    net.train()
    return (100 * wrong / count).tolist()


def main() -> None:
    """5 Details of learning: 90 epochs, 128 images a step, a rate of 0.01 that falls when the errors no longer do."""
    parser = argparse.ArgumentParser(description=__doc__.partition("\n")[0])
    parser.add_argument("--data", type=Path, required=True, help="folder with train/<class>/ and val/<class>/")
    parser.add_argument("--epochs", type=int, default=90, help="passes over the training images")
    parser.add_argument("--batch-size", type=int, default=128)
    parser.add_argument("--lr", type=float, default=0.01)
    parser.add_argument("--size", type=int, default=224, help="side of the crops in pixels")
    parser.add_argument("--devices", nargs=2, metavar="DEVICE", help="of the towers, such as: cuda:0 cuda:1")
    parser.add_argument("--output", type=Path, default=Path("alexnet.pt"), help="the best weights, a state dict")
    args = parser.parse_args()
    torch.manual_seed(0)
    gpus = [f"cuda:{i}" for i in range(min(2, torch.cuda.device_count()))]
    devices = args.devices or (gpus * 2)[:2] or ["cpu", "cpu"]
    train = loader(args.data / "train", args.size, args.batch_size, shuffle=True)
    val = loader(args.data / "val", args.size, args.batch_size)
    mean, components = (x.to(devices[0]) for x in mean_and_components(train))
    net = AlexNet(len(find_classes(args.data / "train")[0]), args.size, devices)
    optimizer = PaperSGD(list(net.parameters()), args.lr)
    # divided by 10 after 6 epochs without a new best error, three times at most; the authors did so by hand
    schedule = ReduceLROnPlateau(optimizer, factor=0.1, patience=5, threshold=0, min_lr=args.lr * 1e-3)
    best = float("inf")
    for epoch in range(1, args.epochs + 1):
        start, losses = time.time(), []
        for squares, labels in train:
            images = augment(squares.to(devices[0]), mean, components, args.size)
            losses.append(train_step(net, optimizer, images, labels.to(devices[0])))
        top1, top5 = errors(net, val, mean, args.size, ten=False)
        schedule.step(top1)
        if top1 < best:
            best = top1
            torch.save(net.state_dict(), args.output)
        loss, seconds = torch.stack(losses).mean(), time.time() - start
        print(f"epoch {epoch}: loss {loss:.3f}, errors {top1:.1f} / {top5:.1f} %, {seconds:.0f} s", flush=True)
    net.load_state_dict(torch.load(args.output))
    top1, top5 = errors(net, val, mean, args.size, ten=True)
    print(f"with ten crops {top1:.1f} / {top5:.1f} %; {args.output} has the weights of the best epoch")


if __name__ == "__main__":
    main()

"""Finds CIFAR-10, CIFAR-100, MNIST and Fashion-MNIST where torchvision.datasets puts them; downloads nothing."""

from pathlib import Path

from alexnet_torch.data.sources.cifar import find_cifar, open_cifar
from alexnet_torch.data.sources.class_folders import has_both_splits
from alexnet_torch.data.sources.mnist import find_mnist, open_mnist
from alexnet_torch.data.sources.source import Source
from alexnet_torch.errors import UserError


def is_torchvision_set(root: Path) -> bool:
    """Returns whether a folder holds one of the sets, or is its own folder."""
    return not has_both_splits(root) and bool(find_cifar(root) or find_mnist(root))


def open_torchvision_set(root: Path) -> Source:
    """Lists the images of a set; its test images are the validation split.

    Raises:
        UserError: the folder holds several sets, or a file is missing or damaged.
    """
    found = [*find_cifar(root), *find_mnist(root)]
    name, folder = found[0]
    if len(found) > 1:
        names = " and ".join(name for name, _ in found)
        raise UserError(f"--data {root}: holds {names}; name the folder of one, for example {folder}")
    return (open_cifar if name.startswith("CIFAR") else open_mnist)(root, name, folder)

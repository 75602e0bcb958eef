"""AlexNet (Krizhevsky, Sutskever, Hinton, 2012) as it was really built: two towers, two devices."""

from importlib import import_module
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from alexnet_torch.architecture import PAPER, Architecture
    from alexnet_torch.model import AlexNet, DropoutKey
    from alexnet_torch.prediction import predict
    from alexnet_torch.presets import CAFFE, SOURCE_2012, TENSORFLOW_POST, TORCHVISION
    from alexnet_torch.weights import load_model

__all__ = [
    "CAFFE",
    "PAPER",
    "SOURCE_2012",
    "TENSORFLOW_POST",
    "TORCHVISION",
    "AlexNet",
    "Architecture",
    "DropoutKey",
    "load_model",
    "predict",
]

_HOMES = {
    "AlexNet": "model",
    "Architecture": "architecture",
    "DropoutKey": "model",
    "PAPER": "architecture",
    "load_model": "weights",
    "predict": "prediction",
}


def __getattr__(name: str) -> Any:
    """Imports public names when first used: torch takes seconds that `--help` can do without."""
    if name not in __all__:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    return getattr(import_module(f"{__name__}.{_HOMES.get(name, 'presets')}"), name)

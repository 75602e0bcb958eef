"""AlexNet (Krizhevsky, Sutskever, Hinton, 2012) as it was really built: two towers, two devices."""

from importlib import import_module
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from alexnet_torch.evaluation.predict import predict
    from alexnet_torch.evaluation.transforms import transforms
    from alexnet_torch.model.alexnet import AlexNet
    from alexnet_torch.model.architecture import PAPER, Architecture
    from alexnet_torch.model.dropout import DropoutKey
    from alexnet_torch.model.presets import CAFFE, CAFFENET, PAPER_LITERAL, SOURCE_2012, TENSORFLOW_POST, TORCHVISION
    from alexnet_torch.training.launch import train
    from alexnet_torch.weights.model_file import TrainedModel, load_model
    from alexnet_torch.weights.plain import plain

__version__ = "1.0.0"  # the project's: pyproject.toml reads it here

__all__ = [
    "CAFFE",
    "CAFFENET",
    "PAPER",
    "PAPER_LITERAL",
    "SOURCE_2012",
    "TENSORFLOW_POST",
    "TORCHVISION",
    "AlexNet",
    "Architecture",
    "DropoutKey",
    "TrainedModel",
    "load_model",
    "plain",
    "predict",
    "train",
    "transforms",
]

_MODULES = {
    "AlexNet": "model.alexnet",
    "Architecture": "model.architecture",
    "DropoutKey": "model.dropout",
    "PAPER": "model.architecture",
    "TrainedModel": "weights.model_file",
    "load_model": "weights.model_file",
    "plain": "weights.plain",
    "predict": "evaluation.predict",
    "train": "training.launch",
    "transforms": "evaluation.transforms",
}


def __getattr__(name: str) -> Any:
    """Imports a public name when it is first used: torch takes seconds to import, and `--help` does not need it."""
    if name not in __all__:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    return getattr(import_module(f"{__name__}.{_MODULES.get(name, 'model.presets')}"), name)


def __dir__() -> list[str]:
    return [*__all__, "__version__"]

"""Options that several commands have, and how --help shows an option."""

from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import tyro
from tyro.conf import Positional

if TYPE_CHECKING:
    from alexnet_torch.weights.model_file import TrainedModel


def shown(metavar: str, hint: str | None = None, help: str | None = None) -> Any:
    """Returns how --help shows an option: its values, a hint, and its help if the docstring has none."""
    return tyro.conf.arg(metavar=metavar, help_behavior_hint=hint and f"({hint})", help=help)


Run = Annotated[Path, Positional, shown("RUN", help="A run's folder, with model.pt and model.json.")]
Devices = Annotated[
    str | None,
    shown("NAME[,NAME]", "default: best", "One device for all towers, or one for each: cpu, cuda:0 or cuda:0,cuda:1."),
]
SkipBad = Annotated[
    bool, tyro.conf.arg(help="Leave out files that cannot be read, instead of stopping with a list of them.")
]


def load_run(run: Path, devices: str | None) -> "TrainedModel":
    """Loads a run's model onto the devices that --devices names."""
    import torch

    from alexnet_torch.weights.model_file import load_model

    model = load_model(run, devices.split(",") if devices else None)
    model.net.to(memory_format=torch.channels_last)  # the convolutions' format: else each batch converts the weights
    return model

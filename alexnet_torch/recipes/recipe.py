"""How to train an architecture."""

from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import Literal, cast, get_args

from alexnet_torch.data.colour import ColourNoise, Convention
from alexnet_torch.model.architecture import Architecture
from alexnet_torch.recipes.schedules import LearningRates, Schedule

OptimizerName = Literal["paper", "adam"]
COLOUR_NAMES = ("none", *get_args(Convention))


@dataclass(frozen=True)
class Recipe:
    """How to train an architecture. The defaults are the paper's (section 5)."""

    architecture: Architecture
    schedule: Schedule
    epochs: int = 90
    batch_size: int = 128
    image_size: int = 224
    lr: float = 0.01  # the base learning rate of the weights, which the schedule multiplies
    optimizer: OptimizerName = "paper"  # the paper's update rule, or Adam
    momentum: float = 0.9
    weight_decay: float = 5e-4  # of the weights
    bias_lr_factor: float = 1.0  # the ratio of the biases' learning rate to the weights'
    bias_lr_scheduled: bool = True  # whether the schedule changes the biases' rate; else it is bias_lr_factor * lr
    bias_decay: float = 5e-4  # the weight decay of the biases
    mirror: bool = True  # whether training images are mirrored at random
    colour: ColourNoise | None = None  # of training images

    def rates(self, base: float, epoch: int, errors: Sequence[float]) -> LearningRates:
        """Returns the learning rates in an epoch (from 0), given the validation errors so far, oldest first."""
        weights = self.schedule.rate(base, epoch, errors)
        biases = self.bias_lr_factor * (weights if self.bias_lr_scheduled else base)
        return LearningRates(weights, biases, self.schedule.stage_rates(base, epoch))

    @property
    def colour_name(self) -> str:
        """The `--colour` name of this recipe's colour noise, one of COLOUR_NAMES."""
        return self.colour.convention if self.colour else "none"

    def colour_noise(self, name: str) -> ColourNoise | None:
        """Returns the colour noise for a `--colour` name, in the same epochs as this recipe's."""
        return None if name == "none" else replace(self.colour or ColourNoise(), convention=cast(Convention, name))

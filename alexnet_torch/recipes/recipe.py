"""How to train an architecture."""

from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import Literal, cast

from alexnet_torch.data.colour import ColourNoise, Convention
from alexnet_torch.model.architecture import Architecture
from alexnet_torch.recipes.schedules import LearningRates, Schedule

OptimizerName = Literal["paper", "adam"]


@dataclass(frozen=True)
class Recipe:
    """How to train an architecture. Field by field the paper's training (section 5), unless given.

    Attributes:
        lr: the weights' base rate, which the schedule multiplies.
        optimizer: the paper's rule, or Adam.
        weight_decay: of the weights.
        bias_lr_factor: times the weights' rate at which biases learn.
        bias_lr_scheduled: the biases' rate falls with the weights'; else it stays at bias_lr_factor * lr.
        bias_decay: weight decay of the biases.
        mirror: whether training images are mirrored at random.
        colour: noise of training images.
    """

    architecture: Architecture
    schedule: Schedule
    epochs: int = 90
    batch_size: int = 128
    image_size: int = 224
    lr: float = 0.01
    optimizer: OptimizerName = "paper"
    momentum: float = 0.9
    weight_decay: float = 5e-4
    bias_lr_factor: float = 1.0
    bias_lr_scheduled: bool = True
    bias_decay: float = 5e-4
    mirror: bool = True
    colour: ColourNoise | None = None

    def rates(self, base: float, epoch: int, errors: Sequence[float]) -> LearningRates:
        """The learning rates in an epoch (from 0), after the validation errors so far, oldest first."""
        weights = self.schedule.rate(base, epoch, errors)
        biases = self.bias_lr_factor * (weights if self.bias_lr_scheduled else base)
        return LearningRates(weights, biases, self.schedule.stage_rates(base, epoch))

    def colour_noise(self, name: str) -> ColourNoise | None:
        """The colour noise that `--colour` names: none, or a convention, for the epochs of this recipe's."""
        return None if name == "none" else replace(self.colour or ColourNoise(), convention=cast(Convention, name))

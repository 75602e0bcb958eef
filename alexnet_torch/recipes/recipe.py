"""How to train an architecture."""

from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import Literal, cast

from alexnet_torch.data.colour import ColourNoise, Convention
from alexnet_torch.model.architecture import Architecture
from alexnet_torch.recipes.schedules import Rates, Schedule

Rule = Literal["paper", "adam"]


@dataclass(frozen=True)
class Recipe:
    """How to train an architecture. Field by field the paper's training (section 5), unless given.

    Attributes:
        lr: the weights' base rate, which the schedule multiplies.
        optimizer: the paper's rule, or Adam.
        weight_decay: of the weights.
        bias_factor: times the weights' rate at which biases learn.
        biases_follow: the biases' rate falls with the weights'; else it stays at bias_factor * lr.
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
    optimizer: Rule = "paper"
    momentum: float = 0.9
    weight_decay: float = 5e-4
    bias_factor: float = 1.0
    biases_follow: bool = True
    bias_decay: float = 5e-4
    mirror: bool = True
    colour: ColourNoise | None = None

    def rates(self, base: float, epoch: int, errors: Sequence[float]) -> Rates:
        """The learning rates in an epoch (from 0), after the validation errors so far, oldest first."""
        weights = self.schedule.rate(base, epoch, errors)
        biases = self.bias_factor * (weights if self.biases_follow else base)
        return Rates(weights, biases, self.schedule.stage_rates(base, epoch))

    def coloured(self, name: str) -> ColourNoise | None:
        """The colour noise that `--colour` names: none, or a convention, for the epochs of this recipe's."""
        return None if name == "none" else replace(self.colour or ColourNoise(), convention=cast(Convention, name))

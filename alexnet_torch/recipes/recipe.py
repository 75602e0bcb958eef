"""How to train an architecture: learning-rate schedules (torch's lr_scheduler), recipes, and the paper's ablations.

Details of the ablations that the paper does not give are those of the 2012 source's nets 146, 147, 148 and 150;
benchmarks/experiments/ablations.py compares them.
"""
# ruff: noqa: ARG002 - a schedule need not depend on all that it is given

import math
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field, replace
from typing import Any, Literal, cast, get_args

from alexnet_torch.data.pca_noise import Convention, PCANoise
from alexnet_torch.errors import UserError
from alexnet_torch.model.architecture import Architecture, Conv, Init

OptimizerName = Literal["paper", "adam"]
COLOURS = ("none", *get_args(Convention))


class Schedule:
    """The learning rate over a run: constant. Subclass it for another, and give it to a `Recipe`."""

    def lr(self, base: float, epoch: float, val_errors: Sequence[float]) -> float:
        """Returns the learning rate of the next step.

        Args:
            base: the rate that --lr gives.
            epoch: epochs done, with a fraction: a rate may change in each step.
            val_errors: top-1 errors of the validations so far, oldest first.
        """
        return base

    def stage_lrs(self, base: float, epoch: float) -> dict[str, float]:
        """Returns the learning rates of the weights of stages that differ from the others."""
        return {}


@dataclass(frozen=True)
class PlateauSchedule(Schedule):
    """Lowers the rate when validation error stops improving (paper, section 5, by hand there)."""

    patience: int = 6  # validations without a new best error before the rate is lowered
    drops: int = 3  # how often it is lowered at most; three times in the paper
    factor: float = 0.1  # what it is multiplied by each time

    def lr(self, base: float, epoch: float, val_errors: Sequence[float]) -> float:
        best, without_best, dropped = float("inf"), 0, 0
        for error in val_errors:
            without_best = 0 if error < best else without_best + 1
            best = min(best, error)
            if without_best >= self.patience and dropped < self.drops:
                dropped, without_best = dropped + 1, 0
        return base * self.factor**dropped


@dataclass(frozen=True)
class EpochSchedule(Schedule):
    """Changes the rate at given epochs, counted from 0, in their order."""

    factors: tuple[tuple[int, float], ...] = ()  # (first epoch, factor of the base rate)
    stage_factors: tuple[tuple[int, str, float], ...] = ()  # (first epoch, stage, factor for its weights)

    def lr(self, base: float, epoch: float, val_errors: Sequence[float]) -> float:
        return base * [1.0, *(factor for first_epoch, factor in self.factors if epoch >= first_epoch)][-1]

    def stage_lrs(self, base: float, epoch: float) -> dict[str, float]:
        return {stage: base * factor for first_epoch, stage, factor in self.stage_factors if epoch >= first_epoch}


@dataclass(frozen=True)
class CosineSchedule(Schedule):
    """Lowers the rate to 0 along half a cosine, once an epoch: with --compile each new rate is captured anew."""

    epochs: int

    def lr(self, base: float, epoch: float, val_errors: Sequence[float]) -> float:
        return base * (1 + math.cos(math.pi * min(1.0, int(epoch) / self.epochs))) / 2


SCHEDULES: dict[str, Callable[[int], Schedule]] = {
    "plateau": lambda _: PlateauSchedule(),
    "steps": lambda epochs: EpochSchedule(((math.ceil(epochs / 3), 0.1), (math.ceil(epochs * 2 / 3), 0.01))),
    "cosine": CosineSchedule,
    "constant": lambda _: Schedule(),
}
"""What `--schedule` names, for a number of epochs; "steps" are those of torchvision: 30 and 60 of 90 epochs."""


@dataclass(frozen=True)
class LearningRates:
    """The learning rates of a step."""

    weights: float  # of all stages but those in `stages`
    biases: float  # of all stages
    stages: Mapping[str, float]  # the weights' rates of the stages that differ, by stage name


@dataclass(frozen=True)
class Recipe:
    """How to train an architecture. The defaults are the paper's (section 5)."""

    architecture: Architecture
    schedule: Schedule
    epochs: int = 90
    batch_size: int = 128
    image_size: int = 224
    lr: float = 0.01  # the base learning rate of the weights, which the schedule multiplies
    warmup_epochs: float = 0.0  # in which the rate rises in each step from a hundredth to the schedule's
    optimizer: OptimizerName = "paper"  # the paper's update rule, or Adam
    momentum: float = 0.9
    weight_decay: float = 5e-4  # of the weights
    stage_decay: Mapping[str, float] = field(default_factory=dict)  # of the weights of stages that differ, by name
    bias_lr_factor: float = 1.0  # the ratio of the biases' learning rate to the weights'
    bias_lr_scheduled: bool = True  # whether the schedule changes the biases' rate; else it is bias_lr_factor * lr
    bias_decay: float = 5e-4  # the weight decay of the biases
    crop: bool = True  # whether images are crops of larger squares, at random in training; else the squares
    mirror: bool = True  # whether training images are mirrored at random
    colour: PCANoise | None = None  # of training images

    def rates(self, base: float, epoch: float, val_errors: Sequence[float]) -> LearningRates:
        """Returns the learning rates of the next step; arguments as for `Schedule.lr`."""
        base *= min(1.0, 0.01 + 0.99 * epoch / self.warmup_epochs) if self.warmup_epochs else 1.0
        weights = self.schedule.lr(base, epoch, val_errors)
        biases = self.bias_lr_factor * (weights if self.bias_lr_scheduled else base)
        return LearningRates(weights, biases, self.schedule.stage_lrs(base, epoch))

    def pca_noise(self, name: str) -> PCANoise | None:
        """Returns the PCA noise for a `--colour` name, in the same epochs as this recipe's."""
        return None if name == "none" else replace(self.colour or PCANoise(), convention=cast(Convention, name))


def without_norm(net: Architecture) -> Architecture:
    """Removes response normalisation, both across channels and in space (net 148)."""
    return _with_convs(net, lambda conv: {"after": tuple(o for o in conv.after if o not in ("norm", "spatial_norm"))})


def plain_pooling(net: Architecture) -> Architecture:
    """Makes pooling windows not overlap: 2x2 with stride 2 instead of 3x3 with stride 2 (net 147).

    Pooled sides are rounded up: 55 becomes 28, not 27. With conv2 and conv5 padded by one pixel less, the inputs of
    conv3, conv4 and fc6 are as large as in the full net.
    """
    less = {c.name: tuple(side - 1 for side in c.padding) for c in net.convs if c.name in ("conv2", "conv5")}
    net = _with_convs(net, lambda conv: {"padding": less.get(conv.name, conv.padding)})
    return replace(net, pool_size=2, pool_stride=2, pool_ceil=True)


def one_tower(net: Architecture) -> Architecture:
    """Makes one tower, with half the kernels in every convolution but the last, which most parameters read.

    It has 59,798,312 parameters, the full net 60,965,224 (paper, section 3.2's footnote).
    """
    if net.towers == 1:
        return net
    last = net.convs[-1]
    net = _with_convs(net, lambda conv: {"channels": conv.channels // (1 if conv is last else 2)})
    return replace(net, towers=1)


def never_meet(net: Architecture) -> Architecture:
    """Makes each tower read only its own outputs up to fc7; fc8 reads both towers (net 150).

    To make up for the lost parameters, conv2 is 5/4 as wide and fc6 twice: 60,714,408 parameters, not 60,965,224.
    """
    if net.towers == 1:
        return net
    wide = {"conv2": 5}
    net = _with_convs(net, lambda c: {"channels": c.channels * wide.get(c.name, 4) // 4, "reads_all_towers": False})
    *hidden, last = net.linears
    fc6, *others = (replace(linear, reads_all_towers=False) for linear in hidden)
    return replace(net, linears=(replace(fc6, width=2 * (fc6.width or 0)), *others, last))


def with_tanh(net: Architecture) -> Architecture:
    """Replaces every ReLU by tanh (paper, section 3.1)."""
    net = _with_convs(net, lambda conv: {"after": tuple("tanh" if o == "relu" else o for o in conv.after)})
    return replace(net, linear_activation="tanh")


def sixth_conv(net: Architecture) -> Architecture:
    """Adds a sixth convolution after the last pooling layer, 3x3, which reads both towers (net 146, the paper's CNN*).

    Net 146 took the others from runs with a larger data set: --init with --init-stages.
    """
    last = net.convs[-1]
    sixth = Conv("conv6", last.channels, 3, padding=(1, 1, 1, 1), reads_all_towers=True, init=Init(0.03, 1.0))
    return replace(net, convs=(*net.convs, sixth))


def _with_convs(net: Architecture, changes: Callable[[Conv], dict[str, Any]]) -> Architecture:
    return replace(net, convs=tuple(replace(conv, **changes(conv)) for conv in net.convs))


ARCHITECTURE_CHANGES: dict[str, Callable[[Architecture], Architecture]] = {
    "no-norm": without_norm,
    "plain-pooling": plain_pooling,
    "one-tower": one_tower,
    "never-meet": never_meet,
    "no-dropout": lambda net: replace(net, dropout=()),
    "tanh": with_tanh,
    "no-conv4": lambda net: replace(net, convs=tuple(c for c in net.convs if c.name != "conv4")),
    "sixth-conv": sixth_conv,
}
"""Functions that change an architecture, by their `--ablation` names."""

ABLATIONS = (*ARCHITECTURE_CHANGES, "no-colour")
"""All names that `--ablation` takes; "no-colour" changes the training images, not the architecture."""


def apply_ablation(recipe: Recipe, name: str | None) -> Recipe:
    """Returns a recipe with one thing changed, by a name of ABLATIONS; refuses one that would change nothing."""
    if name is None:
        return recipe
    if name not in ABLATIONS:
        raise UserError(f"--ablation {name}: must be one of {', '.join(ABLATIONS)}")
    changed = replace(recipe, colour=None)
    if name != "no-colour":
        changed = replace(recipe, architecture=ARCHITECTURE_CHANGES[name](recipe.architecture))
    if changed == recipe:
        raise UserError(f"--ablation {name}: changes nothing in this recipe; choose another --ablation or --recipe")
    return changed

"""How to train an architecture: learning-rate schedules (torch's lr_scheduler), recipes, and the paper's ablations.

An ablation changes one thing of a recipe, in most cases of its architecture. Details that the paper does not give are
those of the 2012 source's nets: 146 (a sixth convolution), 147 (pooling), 148 (no normalisation) and 150 (towers that
never meet). benchmarks/experiments/ablations.py compares all of them.
"""

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Literal, cast, get_args

from alexnet_torch.data.pca_noise import Convention, PCANoise
from alexnet_torch.errors import UserError
from alexnet_torch.model.architecture import Architecture, Conv, Init, Operation

OptimizerName = Literal["paper", "adam"]
COLOUR_NAMES = ("none", *get_args(Convention))


class Schedule:
    """The learning rate over a run: constant. Subclass it for another, such as a cosine, and give it to a `Recipe`."""

    def lr(self, base: float, epoch: float, val_errors: Sequence[float]) -> float:
        """Returns the learning rate of the next step.

        Args:
            base: the rate that --lr gives.
            epoch: epochs done, with a fraction: warm-up and cosine change the rate in each step.
            val_errors: top-1 errors of the validations so far, oldest first.
        """
        del epoch, val_errors
        return base

    def stage_lrs(self, base: float, epoch: float) -> dict[str, float]:
        """Returns the learning rates of the weights of stages that differ from the others."""
        del base, epoch
        return {}


@dataclass(frozen=True)
class PlateauSchedule(Schedule):
    """Lowers the rate when validation error stops improving (paper, section 5, by hand there)."""

    patience: int = 6  # validations without a new best error before the rate is lowered
    drops: int = 3  # how often it is lowered at most; three times in the paper
    factor: float = 0.1  # what it is multiplied by each time

    def lr(self, base: float, epoch: float, val_errors: Sequence[float]) -> float:
        """See `Schedule.lr`."""
        del epoch
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
        """See `Schedule.lr`."""
        del val_errors
        return base * ([1.0] + [factor for first_epoch, factor in self.factors if epoch >= first_epoch])[-1]

    def stage_lrs(self, base: float, epoch: float) -> dict[str, float]:
        """See `Schedule.stage_lrs`."""
        return {stage: base * factor for first_epoch, stage, factor in self.stage_factors if epoch >= first_epoch}


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
    optimizer: OptimizerName = "paper"  # the paper's update rule, or Adam
    momentum: float = 0.9
    weight_decay: float = 5e-4  # of the weights
    bias_lr_factor: float = 1.0  # the ratio of the biases' learning rate to the weights'
    bias_lr_scheduled: bool = True  # whether the schedule changes the biases' rate; else it is bias_lr_factor * lr
    bias_decay: float = 5e-4  # the weight decay of the biases
    mirror: bool = True  # whether training images are mirrored at random
    colour: PCANoise | None = None  # of training images

    def rates(self, base: float, epoch: float, val_errors: Sequence[float]) -> LearningRates:
        """Returns the learning rates of the next step; arguments as for `Schedule.lr`."""
        weights = self.schedule.lr(base, epoch, val_errors)
        biases = self.bias_lr_factor * (weights if self.bias_lr_scheduled else base)
        return LearningRates(weights, biases, self.schedule.stage_lrs(base, epoch))

    @property
    def colour_name(self) -> str:
        """The `--colour` name of this recipe's PCA noise, one of COLOUR_NAMES."""
        return self.colour.convention if self.colour else "none"

    def pca_noise(self, name: str) -> PCANoise | None:
        """Returns the PCA noise for a `--colour` name, in the same epochs as this recipe's."""
        return None if name == "none" else replace(self.colour or PCANoise(), convention=cast(Convention, name))


def without_norm(net: Architecture) -> Architecture:
    """Removes response normalisation, both across channels and in space (net 148)."""
    return _with_operations(net, {"norm": None, "spatial_norm": None})


def plain_pooling(net: Architecture) -> Architecture:
    """Makes pooling windows not overlap: 2x2 with stride 2 instead of 3x3 with stride 2 (net 147).

    The 2012 source rounds pooled sides up, so that 55 becomes 28, not 27. So net 147 pads conv2 and conv5 by
    one pixel less, and the inputs of conv3, conv4 and fc6 are as large as in the full net:

        224 pixels: 55, pooled 28, conv2 26, pooled 13, conv3 and conv4 13, conv5 11, pooled 6
         64 pixels: 15, pooled  8, conv2  6, pooled  3, conv3 and conv4  3, conv5  1, pooled 1

    At 64 pixels the last pooling does nothing: conv5 without padding already reduces 3 to 1.
    """
    convs = []
    for conv in net.convs:
        left, right, top, bottom = conv.padding
        less = (left - 1, right - 1, top - 1, bottom - 1)
        convs.append(replace(conv, padding=less) if conv.name in ("conv2", "conv5") else conv)
    return replace(net, convs=tuple(convs), pool_size=2, pool_stride=2, pool_ceil=True)


def one_tower(net: Architecture) -> Architecture:
    """Makes one tower: half the kernels in every convolution but the last, and linear stages of full width.

    The last convolution stays as wide, because fc6, which reads it, has most of the parameters: the net has
    59,798,312 parameters, the full net 60,965,224 (paper, section 3.2's footnote).
    """
    if net.towers == 1:
        return net
    *convs, last = net.convs
    halved = (replace(conv, channels=conv.channels // 2) for conv in convs)
    return replace(net, convs=(*halved, last), towers=1)


def never_meet(net: Architecture) -> Architecture:
    """Makes each tower read only its own outputs up to fc7; fc8 reads both towers (net 150).

    conv3, fc6 and fc7 lose parameters by this. To compensate, net 150 has a wider conv2 (160 kernels in each
    tower, not 128) and fc6 (4096 units in each tower, not 2048): 60,714,408 parameters, not 60,965,224.
    """
    if net.towers == 1:
        return net
    convs, linears = [], []
    for conv in net.convs:
        channels = conv.channels * 5 // 4 if conv.name == "conv2" else conv.channels
        convs.append(replace(conv, channels=channels, reads_all_towers=False))
    *hidden, last = net.linears
    for linear in hidden:
        width = 2 * linear.width if linear.name == "fc6" and linear.width else linear.width
        linears.append(replace(linear, width=width, reads_all_towers=False))
    return replace(net, convs=tuple(convs), linears=(*linears, last))


def without_dropout(net: Architecture) -> Architecture:
    """Removes dropout."""
    return replace(net, dropout=())


def with_tanh(net: Architecture) -> Architecture:
    """Replaces every ReLU by tanh (paper, section 3.1)."""
    return replace(_with_operations(net, {"relu": "tanh"}), linear_activation="tanh")


def without_conv4(net: Architecture) -> Architecture:
    """Removes conv4: its input and output have the same shape, so no other layer changes."""
    return replace(net, convs=tuple(conv for conv in net.convs if conv.name != "conv4"))


def sixth_conv(net: Architecture) -> Architecture:
    """Adds a sixth convolution after the last pooling layer, 3x3, which reads both towers (net 146, the paper's CNN*).

    The paper trained this net on a larger data set first. Net 146 took its convolutions from such runs, which
    train.py can do with --init and --init-stages.
    """
    last = net.convs[-1]
    sixth = Conv("conv6", last.channels, 3, padding=(1, 1, 1, 1), reads_all_towers=True, init=Init(0.03, 1.0))
    return replace(net, convs=(*net.convs, sixth))


def _with_operations(net: Architecture, changes: dict[Operation, Operation | None]) -> Architecture:
    """Replaces operations that follow convolutions; None removes them."""
    convs = []
    for conv in net.convs:
        after = (changes.get(operation, operation) for operation in conv.after)
        convs.append(replace(conv, after=tuple(filter(None, after))))
    return replace(net, convs=tuple(convs))


ARCHITECTURE_CHANGES: dict[str, Callable[[Architecture], Architecture]] = {
    "no-norm": without_norm,
    "plain-pooling": plain_pooling,
    "one-tower": one_tower,
    "never-meet": never_meet,
    "no-dropout": without_dropout,
    "tanh": with_tanh,
    "no-conv4": without_conv4,
    "sixth-conv": sixth_conv,
}
"""Functions that change an architecture, by their `--ablation` names."""

ABLATIONS = (*ARCHITECTURE_CHANGES, "no-colour")
"""All names that `--ablation` takes; "no-colour" changes the training images, not the architecture."""


def apply_ablation(recipe: Recipe, name: str | None) -> Recipe:
    """Returns a copy of a recipe with one thing changed, by a name of ABLATIONS; None changes nothing.

    Raises:
        UserError: there is no such ablation, or it changes nothing: for example, the recipe has no dropout.
    """
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

"""Recipes: an architecture and the settings to train it with, each a short function."""

from collections.abc import Callable
from dataclasses import dataclass

from alexnet_torch.architecture import PAPER, SOURCE_2012, Architecture, Init
from alexnet_torch.optim import Plateau, Schedule, Steps


@dataclass(frozen=True)
class Recipe:
    """How to train an architecture.

    Attributes:
        lr: the weights' base rate, which the schedule multiplies.
        warmup_steps: steps over which the rate rises linearly from the start of a run.
        bias_factor: times the weights' rate at which biases learn.
        bias_decay: weight decay of the biases.
        mirror: whether training images are mirrored at random.
    """

    architecture: Architecture
    schedule: Schedule
    epochs: int = 90
    batch_size: int = 128
    image_size: int = 224
    lr: float = 0.01
    warmup_steps: int = 0
    momentum: float = 0.9
    weight_decay: float = 5e-4
    bias_factor: float = 1.0
    bias_decay: float = 5e-4
    mirror: bool = True


def paper() -> Recipe:
    """The paper's training (section 5), from weights that carry any folder's images through.

    Their scale is Caffe's "xavier" rule, a variance of 1 / fan-in (LeCun et al., 1998; Glorot and
    Bengio, 2010), with zero biases, in all stages but the first and the last, which keep the paper's
    0.01: the first reads pixels of +-128, not of +-1. So signals reach fc8 at about the same size at
    any image size, where 0.01 everywhere starves a network whose fc6 reads a few hundred numbers.

    Command: `python train.py --data imagenet/`
    """
    return Recipe(_fan_in(PAPER), Plateau())


def _fan_in(net: Architecture) -> Architecture:
    by_fan_in = Init(1.0, 0.0, by_fan_in=True)
    return net.with_init(**{name: by_fan_in for name in net.stage_names[1:-1]}, conv1=Init(), fc8=Init())


def demo() -> Recipe:
    """`paper` made small: 64-pixel images and a short schedule, for minutes on a laptop's CPU.

    Command: `make demo`, or `python train.py --data FOLDER --recipe demo`
    """
    schedule = Steps(factors=((16, 0.1), (22, 0.01)))
    return Recipe(_fan_in(PAPER), schedule, epochs=24, batch_size=32, image_size=64)


def paper_literal() -> Recipe:
    """The paper's text to the letter (sections 3 to 5), its initialisation included.

    Command: `python train.py --data imagenet/ --recipe paper-literal`
    Cost: as `paper`.
    Expected: stays at chance, ln(classes), on folders of ten classes: all stages' weights of 0.01 and
    biases of 1 leave images no say in the activations. The 2012 source has 0.03 in conv3 to conv5.
    """
    return Recipe(PAPER, Plateau())


def source_2012() -> Recipe:
    """Net 145 of the 2012 source: its geometry, order, norms, initialisation, rates by epoch.

    Biases learn at twice the weights' rate, without decay; conv1 is slowed, frozen and freed again.
    (The notes leave the biases' rate at 0.02 to the end; here it follows the weights'.)

    Command: `python train.py --data imagenet/ --recipe source-2012`
    Cost: 91 epochs. Expected: 42.2 / 19.7% centre crop, 40.7 / 18.2% ten crops on ILSVRC-2012 with
    colour noise, which this recipe does not have yet.
    """
    rates = Steps(
        factors=((24, 0.1), (50, 0.01)),
        stages=((66, "conv1", 1e-5), (71, "conv1", 0.0), (78, "conv1", 1e-5)),
    )
    return Recipe(SOURCE_2012, rates, epochs=91, bias_factor=2.0, bias_decay=0.0)


RECIPES: dict[str, Callable[[], Recipe]] = {
    "paper": paper,
    "demo": demo,
    "paper-literal": paper_literal,
    "source-2012": source_2012,
}

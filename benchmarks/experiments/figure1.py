"""The paper's Figure 1: training error by epoch of a four-layer net with ReLU and with tanh.

    python -m benchmarks.experiments.figure1 tiny-imagenet-10
    python -m benchmarks.experiments.figure1 tiny-imagenet-10 --init lecun --epochs 8 --output runs/lecun

The paper's images are CIFAR-10's; here they are a folder's, at 32 pixels. As in the paper there is no
regularisation (no crops, mirrors, colour noise, decay or dropout), and each activation has the best of its rates.
Each finished training is saved as a line of JSON in the folder that --output names; the same command continues with
those that are missing. Also draws figure1.png and figure1.svg there, and prints a table in Markdown.
"""

import sys
from dataclasses import asdict, dataclass, replace
from itertools import product
from pathlib import Path
from typing import Literal, get_args

import matplotlib
import torch
import torch.nn.functional as F
import tyro
from matplotlib.figure import Figure
from matplotlib.ticker import MaxNLocator
from torch import Tensor

from alexnet_torch import AlexNet, Architecture
from alexnet_torch.data.augment import subtract_mean
from alexnet_torch.data.cache import PreparedImages
from alexnet_torch.data.cache_build import prepare
from alexnet_torch.data.decode import decoded_side
from alexnet_torch.data.loader import Loader
from alexnet_torch.data.sources.recognise import data_folder
from alexnet_torch.errors import UserError
from alexnet_torch.evaluation.metrics import count_wrong
from alexnet_torch.model.architecture import Activation, Conv, Init, Linear
from alexnet_torch.randomness import random_generator
from alexnet_torch.recipes.recipe import LearningRates, with_tanh
from alexnet_torch.training.optimizers import PaperSGD, parameter_groups, set_rates
from benchmarks.harness.report import append_record, markdown_table, saved_records

Start = Literal["2012", "lecun"]
SIDE = 32  # CIFAR-10's

FOUR_LAYERS = Architecture(
    name="four_layers",
    convs=tuple(
        Conv(f"conv{i}", channels, 5, padding=(2, 2, 2, 2), after=("relu", "pool"), init=Init(std))
        for i, channels, std in ((1, 32, 0.0001), (2, 32, 0.01), (3, 64, 0.01))
    ),
    linears=(Linear("fc4", None, init=Init(0.01)),),
    towers=1,
    pool_ceil=True,
    dropout=(),
)
"""The 2012 source's CIFAR-10 net, with its initial weights: three convolutions and a linear layer, without its norms
and with max pooling in place of average pooling. The paper says only that its own net has four layers."""


def network(activation: str, start: Start) -> Architecture:
    """Returns the net with "relu" or "tanh". With "lecun", maps have unit variance, so no tanh starts saturated."""
    net = with_tanh(FOUR_LAYERS) if activation == "tanh" else FOUR_LAYERS
    if start == "2012":
        return net
    lecun = Init(1.0, 0.0, by_fan_in=True)
    return replace(net.with_init(**dict.fromkeys(net.stage_names, lecun)), input_scale=1 / 64)


@dataclass(frozen=True)
class Options:
    """What to train on, and how long."""

    data: tyro.conf.Positional[str]  # a folder of images, or "digits"
    epochs: int = 20  # of each training
    init: Start = "2012"  # initial weights: the 2012 source's CIFAR-10 net's, or LeCun's rule with scaled pixels
    rates: tuple[float, ...] = (0.0003, 0.001, 0.003, 0.01, 0.03)  # each activation is trained with each
    target: float = 0.25  # training error (a fraction) until which epochs are counted
    batch_size: int = 32  # images in a step
    seed: int = 0  # decides initial weights and the images' order; the same in all trainings
    output: Path = Path("runs/figure1")  # the folder of curves and pictures


@dataclass(frozen=True)
class Curve:
    """One training. Errors are fractions: each epoch's mean over its batches, each measured before its update."""

    data: str
    epochs: int
    init: str
    activation: str
    rate: float
    errors: list[float]

    def epochs_to(self, target: float) -> float | None:
        """Returns the epochs until the error reached the target, interpolated linearly; None if it did not."""
        before = 1.0  # before training
        for epoch, error in enumerate(self.errors):
            if error <= target:
                return epoch + (before - target) / (before - error)
            before = error
        return None


def load_images(prepared: PreparedImages) -> tuple[Tensor, Tensor]:
    """Returns all training images (N, 3, 32, 32) minus the mean image, and their labels (N,)."""
    # the loader gives validation images in order, and cuts their centres
    batches = list(Loader(replace(prepared, val=prepared.train), "val", SIDE, batch_size=500).epoch(0))
    mean = torch.from_numpy(prepared.mean)
    images = torch.cat([subtract_mean(batch.images, batch.crops, mean) for batch in batches])
    return images, torch.cat([batch.labels for batch in batches])


def train(options: Options, prepared: PreparedImages, activation: str, rate: float) -> Curve:
    """Trains a net. If it diverges, its errors are at chance, which the table does not count as success."""
    net = AlexNet(network(activation, options.init), len(prepared.classes), SIDE, seed=options.seed)
    optimizer = PaperSGD(parameter_groups(net, 0.0, 0.0))
    set_rates(optimizer, LearningRates(rate, rate, {}))
    images, labels = load_images(prepared)
    errors: list[float] = []
    for epoch in range(options.epochs):
        order = torch.from_numpy(random_generator(options.seed, "order", epoch).permutation(len(labels)))
        wrong = 0
        for batch in order.split(options.batch_size):
            logits = net(images[batch])
            optimizer.zero_grad()
            F.cross_entropy(logits, labels[batch]).backward()
            optimizer.step()
            wrong += int(count_wrong(logits.detach(), labels[batch], 1))
        errors.append(wrong / len(labels))
    return Curve(options.data, options.epochs, options.init, activation, rate, errors)


def complete_curves(options: Options) -> list[Curve]:
    """Returns the curves of all trainings; those that are missing are trained and saved."""
    file = options.output / "figure1.jsonl"
    given = saved_records(file, data=options.data, epochs=options.epochs, init=options.init)
    curves = [Curve(**record) for record in given]
    prepared = prepare(data_folder(options.data), decoded_side(SIDE))
    options.output.mkdir(parents=True, exist_ok=True)
    done = {(curve.activation, curve.rate) for curve in curves}
    for activation, rate in product(get_args(Activation), options.rates):
        if (activation, rate) not in done:
            curves.append(train(options, prepared, activation, rate))
            append_record(file, asdict(curves[-1]))
            print(f"{activation}, rate {rate:g}: error {curves[-1].errors[-1]:.1%} at the end", flush=True)
    return [curve for curve in curves if curve.rate in options.rates]


def best_curves(curves: list[Curve], target: float) -> dict[str, Curve]:
    """Returns each activation's curve that reaches the target first, or if none does, the lowest at the end."""

    def order(curve: Curve) -> tuple[float, float]:
        reached = curve.epochs_to(target)
        return (len(curve.errors) + 1.0 if reached is None else reached), curve.errors[-1]

    return {a: min((c for c in curves if c.activation == a), key=order) for a in get_args(Activation)}


def draw(curves: list[Curve], target: float, file: Path) -> None:
    """Draws the best curves as in the paper over faint ones of the other rates, at `file` with .png and .svg."""
    styles = {"relu": ("ReLU", "#0072B2", "-"), "tanh": ("tanh", "#D55E00", (0, (5, 2)))}  # Okabe and Ito's
    best = best_curves(curves, target)
    figure = Figure(figsize=(5.5, 4), layout="constrained")
    axes = figure.subplots()
    for curve in curves:
        name, colour, dashes = styles[curve.activation]
        width, alpha, label = 0.8, 0.4, ""
        if curve is best[curve.activation]:
            width, alpha, label = 2.2, 1.0, f"{name}, rate {curve.rate:g}"
        epochs = range(1, len(curve.errors) + 1)
        axes.plot(epochs, curve.errors, color=colour, linestyle=dashes, linewidth=width, alpha=alpha, label=label)
    axes.axhline(target, color="0.5", linewidth=0.8, linestyle=":")
    axes.set(xlabel="Epochs", ylabel="Training error", xlim=(0, None), ylim=(0, None))
    axes.yaxis.set_major_formatter("{x:.0%}")
    axes.spines[["top", "right"]].set_visible(False)
    axes.xaxis.set_major_locator(MaxNLocator(integer=True))
    figure.legend(loc="outside upper center", ncols=2, frameon=False, title="thick: the best rate; thin: the others")
    figure.savefig(file.with_suffix(".png"), dpi=150)
    with matplotlib.rc_context({"svg.fonttype": "none", "svg.hashsalt": file.name}):  # the same bytes each time
        figure.savefig(file.with_suffix(".svg"), metadata={"Date": None})


def table(curves: list[Curve], target: float) -> str:
    """Returns the epochs that each training took to the target, in Markdown, and the ratio of the best."""
    rows = []
    for curve in sorted(curves, key=lambda curve: (curve.activation, curve.rate)):
        reached = curve.epochs_to(target)
        epochs = f"not in {len(curve.errors)}" if reached is None else f"{reached:.1f}"
        rows.append((curve.activation, f"{curve.rate:g}", epochs, f"{curve.errors[-1]:.1%}"))
    text = markdown_table(("activation", "rate", f"epochs to {target:.0%}", "error at the end"), rows)
    relu, tanh = (curve.epochs_to(target) for curve in best_curves(curves, target).values())
    if relu is not None and tanh is not None:
        text += f"\n\ntanh's best takes {tanh / relu:.1f} times as many epochs as ReLU's; in the paper, 6 times."
    return text


def main(options: Options) -> int:
    """Trains, draws and prints; returns the exit status."""
    try:
        curves = complete_curves(options)
    except UserError as error:
        print(f"benchmarks.experiments.figure1: {error}", file=sys.stderr)
        return 2
    draw(curves, options.target, options.output / "figure1")
    print(table(curves, options.target))
    return 0


if __name__ == "__main__":
    sys.exit(main(tyro.cli(Options)))

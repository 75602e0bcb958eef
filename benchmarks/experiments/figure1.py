"""The paper's Figure 1: training error by epoch of a four-layer net with ReLU and with tanh.

    python -m benchmarks.experiments.figure1 ../shared/data/tiny-imagenet-10
    python -m benchmarks.experiments.figure1 ../shared/data/tiny-imagenet-10 --init lecun --epochs 8 --output runs/lecun

The paper's images are CIFAR-10's; here they are a folder's, at 32 pixels. As in the paper nothing
regularises: no crops, mirrors, colour noise, decay or dropout; and each activation has the best of its rates.
Each training is kept as a line of JSON when it ends, in the folder that --output names: the same command
goes on after what is there. Draws figure1.png and figure1.svg beside, and prints a table in markdown.
"""

import json
import sys
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from typing import Literal, get_args

import matplotlib.pyplot as plt
import torch
import torch.nn.functional as F
import tyro
from matplotlib.ticker import MaxNLocator
from torch import Tensor

from alexnet_torch import AlexNet, Architecture
from alexnet_torch.data.augment import subtract_mean
from alexnet_torch.data.decode import decoded_side
from alexnet_torch.data.digits import data_folder
from alexnet_torch.data.loader import Loader
from alexnet_torch.data.prepare import prepare
from alexnet_torch.data.prepared_images import PreparedImages
from alexnet_torch.errors import UserError
from alexnet_torch.evaluation.metrics import count_wrong
from alexnet_torch.model.architecture import Activation, Conv, Init, Linear
from alexnet_torch.randomness import stream
from alexnet_torch.recipes.ablations import with_tanh
from alexnet_torch.recipes.schedules import LearningRates
from alexnet_torch.training.optimizers import PaperSGD, parameter_groups, set_rates

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
"""The layers and initial weights of the 2012 source's CIFAR-10 net, of three convolutions and a linear layer,
without its norms and with maximum for average pooling. The paper does not say more of its own than four layers."""


def network(activation: str, start: Start) -> Architecture:
    """The net with an activation; from "lecun", unit variance goes in and through, and no tanh starts saturated.

    Args:
        activation: "relu" or "tanh".
        start: the initial weights: the 2012 source's, or LeCun's with pixels of about unit variance.
    """
    net = with_tanh(FOUR_LAYERS) if activation == "tanh" else FOUR_LAYERS
    if start == "2012":
        return net
    lecun = Init(1.0, 0.0, by_fan_in=True)
    return replace(net.with_init(**dict.fromkeys(net.stage_names, lecun)), input_scale=1 / 64)


@dataclass(frozen=True)
class Options:
    """What to train on, and how long."""

    data: tyro.conf.Positional[str]
    """A folder of images, or "digits"."""
    epochs: int = 20
    """Of each training."""
    init: Start = "2012"
    """Initial weights: those of the 2012 source's CIFAR-10 net, or LeCun's rule with scaled pixels."""
    rates: tuple[float, ...] = (0.0003, 0.001, 0.003, 0.01, 0.03)
    """Each activation is trained with each."""
    target: float = 0.25
    """Training error, a fraction, to count the epochs to."""
    batch_size: int = 32
    """Images in a step."""
    seed: int = 0
    """Of the weights and of the images' order, the same in all trainings."""
    output: Path = Path("runs/figure1")
    """Where curves and pictures are kept."""


@dataclass(frozen=True)
class Curve:
    """One training: the mean error over each epoch's batches, as they were trained on; fractions."""

    data: str
    epochs: int
    init: str
    activation: str
    rate: float
    errors: list[float]

    def epochs_to(self, target: float) -> float | None:
        """Epochs until the error was down to the target, between two epochs in proportion; None if never."""
        before = 1.0  # nothing learnt
        for epoch, error in enumerate(self.errors):
            if error <= target:
                return epoch + (before - target) / (before - error)
            before = error
        return None


def images_of(prepared: PreparedImages) -> tuple[Tensor, Tensor]:
    """All training images (N, 3, 32, 32), less their mean, and their labels (N,)."""
    # the loader gives validation images in order, each by its centre
    loader = Loader(replace(prepared, val=prepared.train), "val", SIDE, batch_size=500)
    mean = torch.from_numpy(prepared.mean)
    batches = list(loader.epoch(0))
    images = torch.cat([subtract_mean(batch.images, batch.crops, mean) for batch in batches])
    return images, torch.cat([batch.labels for batch in batches])


def train(options: Options, prepared: PreparedImages, activation: str, rate: float) -> Curve:
    """One training. Should it diverge, errors of chance follow, which no table takes for success."""
    net = AlexNet(network(activation, options.init), len(prepared.classes), SIDE, seed=options.seed)
    optimizer = PaperSGD(parameter_groups(net, 0.0, 0.0))
    set_rates(optimizer, LearningRates(rate, rate, {}))
    images, labels = images_of(prepared)
    errors: list[float] = []
    for epoch in range(options.epochs):
        order = torch.from_numpy(stream(options.seed, "order", epoch).permutation(len(labels)))
        wrong = 0
        for batch in order.split(options.batch_size):
            logits = net(images[batch])
            optimizer.zero_grad()
            F.cross_entropy(logits, labels[batch]).backward()
            optimizer.step()
            wrong += int(count_wrong(logits.detach(), labels[batch], 1))
        errors.append(wrong / len(labels))
    return Curve(options.data, options.epochs, options.init, activation, rate, errors)


def curves(options: Options) -> list[Curve]:
    """All trainings: those that are there, and what is missing, which is trained and kept.

    Raises:
        UserError: there are curves of other images, epochs or initial weights; or nothing to train.
    """
    if options.epochs < 1 or options.batch_size < 1 or not options.rates:
        raise UserError("--epochs and --batch-size must be 1 or more, and --rates name one rate or more")
    file = options.output / "figure1.jsonl"
    found = [Curve(**json.loads(line)) for line in file.read_text().splitlines()] if file.exists() else []
    for curve in found:
        if (curve.data, curve.epochs, curve.init) != (options.data, options.epochs, options.init):
            raise UserError(
                f"--output {options.output}: has curves of {curve.data}, {curve.epochs} epochs, init {curve.init}"
            )
    prepared = prepare(data_folder(options.data), decoded_side(SIDE))
    options.output.mkdir(parents=True, exist_ok=True)
    with file.open("a") as lines:
        for activation in get_args(Activation):
            for rate in options.rates:
                if any((curve.activation, curve.rate) == (activation, rate) for curve in found):
                    continue
                found.append(train(options, prepared, activation, rate))
                lines.write(json.dumps(asdict(found[-1])) + "\n")
                lines.flush()
                print(f"{activation}, rate {rate:g}: error {found[-1].errors[-1]:.1%} at the end", flush=True)
    return [curve for curve in found if curve.rate in options.rates]


def best(found: list[Curve], target: float) -> dict[str, Curve]:
    """Each activation's curve that is first at the target; the lowest at the end where none is."""

    def rank(curve: Curve) -> tuple[float, float]:
        reached = curve.epochs_to(target)
        return (len(curve.errors) + 1.0 if reached is None else reached), curve.errors[-1]

    return {a: min((c for c in found if c.activation == a), key=rank) for a in get_args(Activation)}


def draw(found: list[Curve], target: float, file: Path) -> None:
    """The best curves, ReLU solid and tanh dashed as in the paper, over the faint ones of other rates.

    Args:
        found: of each activation at least one.
        target: drawn as a line.
        file: without its suffix; a PNG and an SVG are written.
    """
    styles = {"relu": ("ReLU", "#0072B2", "-"), "tanh": ("tanh", "#D55E00", (0, (5, 2)))}  # Okabe and Ito's
    chosen = best(found, target)
    figure, axes = plt.subplots(figsize=(5.5, 4), layout="constrained")
    for curve in found:
        name, colour, dashes = styles[curve.activation]
        front = curve is chosen[curve.activation]
        axes.plot(
            range(1, len(curve.errors) + 1),
            curve.errors,
            color=colour,
            linestyle=dashes,
            linewidth=2.2 if front else 0.8,
            alpha=1 if front else 0.4,
            label=f"{name}, rate {curve.rate:g}" if front else None,
        )
    axes.axhline(target, color="0.5", linewidth=0.8, linestyle=":")
    axes.set(xlabel="Epochs", ylabel="Training error", xlim=(0, None), ylim=(0, None))
    axes.yaxis.set_major_formatter("{x:.0%}")
    axes.spines[["top", "right"]].set_visible(False)
    axes.xaxis.set_major_locator(MaxNLocator(integer=True))
    figure.legend(loc="outside upper center", ncols=2, frameon=False, title="each with its best rate; thin, its others")
    figure.savefig(file.with_suffix(".png"), dpi=150)
    with plt.rc_context({"svg.fonttype": "none", "svg.hashsalt": file.name}):  # the same bytes each time
        figure.savefig(file.with_suffix(".svg"), metadata={"Date": None})
    plt.close(figure)


def table(found: list[Curve], target: float) -> str:
    """The epochs that each training took to the target, in markdown, and the ratio of the best."""
    lines = [f"| activation | rate | epochs to {target:.0%} | error at the end |", "|---|---|---|---|"]
    for curve in sorted(found, key=lambda curve: (curve.activation, curve.rate)):
        reached = curve.epochs_to(target)
        epochs = f"not in {len(curve.errors)}" if reached is None else f"{reached:.1f}"
        lines.append(f"| {curve.activation} | {curve.rate:g} | {epochs} | {curve.errors[-1]:.1%} |")
    relu, tanh = (curve.epochs_to(target) for curve in best(found, target).values())
    if relu is not None and tanh is not None:
        lines.append(f"\ntanh's best takes {tanh / relu:.1f} times as many epochs as ReLU's; in the paper, 6 times.")
    return "\n".join(lines)


def main(options: Options) -> int:
    """Trains, draws and prints; returns the exit status."""
    try:
        found = curves(options)
    except UserError as error:
        print(f"benchmarks.experiments.figure1: {error}", file=sys.stderr)
        return 2
    draw(found, options.target, options.output / "figure1")
    print(table(found, options.target))
    return 0


if __name__ == "__main__":
    sys.exit(main(tyro.cli(Options)))

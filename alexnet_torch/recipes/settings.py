"""The settings of a run: the options of train.py, and how they are resolved.

What is given on the command line wins; then, with --resume or --config, what a run was started with;
then the recipe; then the defaults below. Nothing here imports torch: `--help` must be quick.
"""

import contextlib
import io
import json
import math
from collections.abc import Iterator
from dataclasses import asdict, dataclass, field, fields
from datetime import datetime
from pathlib import Path
from typing import Annotated, Any, Literal, get_args

import tyro

from alexnet_torch.errors import UserError
from alexnet_torch.recipes.ablations import apply_ablation
from alexnet_torch.recipes.catalogue import RECIPES
from alexnet_torch.run_folder import CONFIG

RecipeName = Literal["paper", "paper-literal", "source-2012", "caffe", "tensorflow-post", "torchvision", "demo"]
ColourName = Literal["none", "paper", "source"]
AblationName = Literal[
    "no-norm", "plain-pooling", "one-tower", "never-meet", "no-colour", "no-dropout", "tanh", "no-conv4", "sixth-conv"
]
Split = Literal["auto", "none", "devices", "ranks", "hybrid"]
Amp = Literal["bf16", "fp16"]


def _default(hint: str, metavar: str | None) -> Any:
    """How --help shows an option whose default depends on the recipe or the resumed run."""
    return tyro.conf.arg(help_behavior_hint=f"(default: {hint})", metavar=metavar)


@dataclass(frozen=True)
class DataOptions:
    """What to learn from."""

    data: Annotated[str | None, _default("digits", "DIR|digits")] = None
    """A folder with train/<class>/* and val/<class>/*, or "digits": handwritten digits that come with
    scikit-learn."""
    cache: Annotated[str | None, _default("auto", "DIR|auto|none")] = None
    """Where decoded images are kept: a folder; "auto": in ~/.cache/alexnet_torch if they fit in half the
    free disk; or "none": decode them again each epoch."""
    skip_bad: bool = False
    """Leave out files that cannot be read, instead of stopping with their list."""
    image_size: Annotated[int | None, _default("the recipe's", "N")] = None
    """Height and width of the network's images, in pixels."""
    no_mirror: bool = False
    """Never mirror training images: for digits, letters and the like."""
    colour: Annotated[ColourName | None, _default("the recipe's", "none|paper|source")] = None
    """Colour noise of training images: along the eigenvectors of their colours, by the eigenvalues
    ("paper") or the standard deviations ("source")."""


@dataclass(frozen=True)
class TrainingOptions:
    """How to learn it."""

    recipe: Annotated[RecipeName | None, _default("paper", "|".join(get_args(RecipeName)))] = None
    """The architecture and how it is trained; see alexnet_torch/recipes.py."""
    ablation: Annotated[AblationName | None, _default("none", "NAME")] = None
    """One thing of the recipe changed, as in the paper's comparisons: no-norm, plain-pooling, one-tower,
    never-meet, no-colour, no-dropout, tanh, no-conv4 or sixth-conv; see alexnet_torch/ablations.py."""
    epochs: Annotated[int | None, _default("the recipe's", "N")] = None
    """Passes over the training images."""
    max_steps: Annotated[int | None, _default("none", "N")] = None
    """Stop after this many steps in all, whatever the epochs."""
    batch_size: Annotated[int | None, _default("the recipe's", "N")] = None
    """Images in a step, over all devices."""
    lr: Annotated[float | None, _default("the recipe's", "RATE")] = None
    """Base learning rate."""
    seed: Annotated[int | None, _default("0", "N")] = None
    """Of everything random."""


@dataclass(frozen=True)
class StartOptions:
    """What to start from: with --resume the run's own checkpoint, else --init, else weights drawn anew."""

    init: Annotated[str | None, _default("none", "RUN|FILE")] = None
    """Weights to start from: a run's folder, or a file that "python -m alexnet_torch import" reads. With
    another number of classes, the last stage is drawn anew."""
    init_stages: Annotated[str | None, _default("all", "STAGES")] = None
    """Take only these stages from --init: conv1,conv2 or conv1..conv5, say; the others are drawn anew."""
    freeze: Annotated[str | None, _default("none", "STAGES")] = None
    """Stages whose weights and biases do not change: conv1..conv5, say."""


@dataclass(frozen=True)
class PlacementOptions:
    """Where the towers live."""

    devices: Annotated[str | None, _default("the GPUs there are", "NAME[,NAME]")] = None
    """Devices, one for all towers or one for each: cpu, cuda:0 or cuda:0,cuda:1."""
    split: Annotated[Split | None, _default("auto", "auto|none|devices|ranks|hybrid")] = None
    """Put towers on one device each ("devices"), together ("none"), or apart where a process has as many
    GPUs ("auto"); under torchrun, one in each process ("ranks"), or the linear stages cut over all
    processes and the convolutions in each ("hybrid")."""
    timeout: Annotated[float | None, _default("600", "SECONDS")] = None
    """How long processes of torchrun wait for one another before they give up: longer than a step takes,
    or a checkpoint."""
    amp: Annotated[Amp | None, _default("none", "bf16|fp16")] = None
    """Convolutions and products in 16 bits, for GPUs; weights, normalisation and loss stay in 32."""
    compile: bool = False
    """Have torch compile the network: a minute at the start, which later runs are spared."""


@dataclass(frozen=True)
class RunOptions:
    """What is kept, and how often."""

    output: Annotated[str | None, _default("runs/<recipe>-<time>", "DIR")] = None
    """The run's folder."""
    resume: bool = False
    """Continue the run in --output from its newest intact checkpoint; its settings hold unless given."""
    config: Annotated[str | None, _default("none", "FILE")] = None
    """Repeat the run whose config.json this is, into a new --output; its settings hold unless given."""
    log_every: Annotated[int | None, _default("20", "N")] = None
    """Steps between reports."""
    val_every: Annotated[int | None, _default("1", "N")] = None
    """Epochs between validations."""
    save_every: Annotated[float | None, _default("10", "MINUTES")] = None
    """Minutes between checkpoints, besides one at each validation."""


@dataclass(frozen=True)
class Options:
    """Train AlexNet, in two towers, on a folder of images."""

    data: DataOptions = field(default_factory=DataOptions)
    training: TrainingOptions = field(default_factory=TrainingOptions)
    start: StartOptions = field(default_factory=StartOptions)
    placement: PlacementOptions = field(default_factory=PlacementOptions)
    run: RunOptions = field(default_factory=RunOptions)


@dataclass(frozen=True)
class Settings:
    """Every setting of a run, resolved. Field for field the options above, but for --config."""

    data: str
    cache: str
    skip_bad: bool
    image_size: int
    no_mirror: bool
    colour: str
    recipe: str
    ablation: str | None
    epochs: int
    max_steps: int | None
    batch_size: int
    lr: float
    seed: int
    init: str | None
    init_stages: str | None
    freeze: str | None
    devices: str | None
    split: str
    timeout: float
    amp: str | None
    compile: bool
    output: str
    resume: bool
    log_every: int
    val_every: int
    save_every: float

    def __post_init__(self) -> None:
        for name in ("image_size", "epochs", "batch_size", "log_every", "val_every"):
            self._require(name, getattr(self, name) >= 1, "1 or more")
        self._require("max_steps", self.max_steps is None or self.max_steps >= 1, "1 or more")
        self._require("lr", self.lr > 0 and math.isfinite(self.lr), "positive")
        self._require("seed", 0 <= self.seed < 1 << 62, "0 or more, and below 2^62")
        self._require("timeout", self.timeout > 0 and math.isfinite(self.timeout), "positive")
        self._require("save_every", self.save_every > 0, "positive")
        self._require("colour", self.colour in get_args(ColourName), f"one of {get_args(ColourName)}")
        self._require("colour", self.ablation != "no-colour" or self.colour == "none", "none for --ablation no-colour")
        self._require("init_stages", self.init_stages is None or self.init is not None, "given with --init")

    def _require(self, name: str, holds: bool, must: str) -> None:
        if not holds:
            raise UserError(f"--{name.replace('_', '-')} {getattr(self, name)}: must be {must}")


def flat(options: Options) -> dict[str, Any]:
    """The options that were given, by name."""
    groups = (getattr(options, group.name) for group in fields(options))
    values = {name: value for group in groups for name, value in asdict(group).items()}
    return {name: value for name, value in values.items() if value is not None and value is not False}


def resolve(given: dict[str, Any]) -> Settings:
    """Settings from what was given, the run to resume or repeat, the recipe and the defaults, in this order.

    Raises:
        UserError: a value is impossible, or there is no run to resume or repeat.
    """
    option = "--config" if "config" in given else "--resume"
    chosen = {**_earlier(given), **{name: value for name, value in given.items() if name != "config"}}
    name = chosen.get("recipe", "paper")
    if name not in RECIPES:
        raise UserError(f"{option}: config.json names recipe {name!r}, which there is not; name one with --recipe")
    recipe = apply_ablation(RECIPES[name](), chosen.get("ablation"))
    defaults = {
        "data": "digits",
        "cache": "auto",
        "skip_bad": False,
        "image_size": recipe.image_size,
        "no_mirror": not recipe.mirror,
        "colour": recipe.colour.convention if recipe.colour else "none",
        "recipe": name,
        "ablation": None,
        "epochs": recipe.epochs,
        "max_steps": None,
        "batch_size": recipe.batch_size,
        "lr": recipe.lr,
        "seed": 0,
        "init": None,
        "init_stages": None,
        "freeze": None,
        "devices": None,
        "split": "auto",
        "timeout": 600.0,
        "amp": None,
        "compile": False,
        "output": f"runs/{name}-{datetime.now():%Y%m%d-%H%M%S}",
        "resume": False,
        "log_every": 20,
        "val_every": 1,
        "save_every": 10.0,
    }
    try:
        return Settings(**{**defaults, **chosen})
    except TypeError as error:  # only what was read can be of the wrong type
        raise UserError(f"{option}: config.json has a setting of the wrong type ({error}); restore it") from error


def _earlier(given: dict[str, Any]) -> dict[str, Any]:
    """The settings of the run to resume or to repeat; none without such a wish."""
    if not given.get("resume"):
        if "config" not in given:
            return {}
        config = Path(given["config"])
        repeated = _settings_in(config, "--config", f" {config}: there is no such file; name a run's config.json")
        return {name: value for name, value in repeated.items() if name not in ("output", "resume")}
    if "config" in given:
        raise UserError("--config: repeats a run in a new folder, --resume continues one; give one of the two")
    if "output" not in given:
        raise UserError("--resume: name the run's folder with --output")
    folder = Path(given["output"])
    missing = f": {folder} holds no run (no config.json); start one without --resume"
    return _settings_in(folder / CONFIG, "--resume", missing)


def _settings_in(config: Path, option: str, missing: str) -> dict[str, Any]:
    try:
        settings: dict[str, Any] = dict(json.loads(config.read_text())["settings"])
    except FileNotFoundError as error:
        raise UserError(f"{option}{missing}") from error
    except (ValueError, KeyError, TypeError, OSError) as error:
        raise UserError(f"{option}: {config} cannot be read ({error}); restore it, or start a new run") from error
    if unknown := set(settings) - {f.name for f in fields(Settings)}:
        raise UserError(f"{option}: {config} has settings that there are not: {', '.join(sorted(unknown))}")
    return settings


def parse(arguments: list[str] | None = None) -> dict[str, Any]:
    """The options given on a command line (sys.argv by default), by name.

    Raises:
        UserError: an option is unknown or its value is of the wrong kind.
        SystemExit: of status 0, after --help.
    """
    with one_line_errors("train.py"):
        options = tyro.cli(
            Annotated[Options, tyro.conf.OmitArgPrefixes, tyro.conf.FlagCreatePairsOff],
            args=arguments,
            prog="train.py",
        )
    return flat(options)


@contextlib.contextmanager
def one_line_errors(program: str) -> Iterator[None]:
    """Turns the box that tyro prints of a wrong command line into a UserError of one line."""
    said = io.StringIO()
    try:
        with contextlib.redirect_stderr(said):
            yield
    except SystemExit as stop:
        if not stop.code:
            raise
        box = said.getvalue().partition("│ ───")[0]  # what follows repeats the help
        words = " ".join(line.strip("│╭╮╰╯─ ") for line in box.splitlines()[1:]).split()
        raise UserError(f"{' '.join(words)} (see {program} --help)") from stop

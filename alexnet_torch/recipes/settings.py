"""The settings of a run: one list, from which the options of train.py, the defaults and a run's identity are derived.

A value given on the command line comes first; then, with --resume or --config, the earlier run's value; then
the recipe's; then the default in this list. Nothing here imports torch: `--help` must be quick.
"""

import json
import math
from collections.abc import Callable, Collection
from dataclasses import asdict, dataclass, fields
from datetime import datetime
from pathlib import Path
from typing import Annotated, Any, get_type_hints

from alexnet_torch.errors import UserError
from alexnet_torch.files import explain_os_error
from alexnet_torch.recipes.ablations import ABLATIONS, apply_ablation
from alexnet_torch.recipes.catalogue import RECIPES
from alexnet_torch.recipes.recipe import COLOUR_NAMES, Recipe
from alexnet_torch.run_folder import CONFIG


@dataclass(frozen=True)
class Option:
    """What a setting's type does not say."""

    default: Any | Callable[[Recipe], Any]  # the value if nothing else gives one, or a function of the recipe
    metavar: str | None = None  # the values, as --help shows them; by default the choices
    default_text: str | None = None  # the default, as --help shows it; by default str(default), or "the recipe's"
    choices: Collection[str] = ()  # all valid values; empty if there are more
    identity: bool = False  # whether resuming a checkpoint needs the same value, because it changes what is learned
    path_unless: Collection[str] | None = None  # the value is a path, recorded from the root, unless it is one of these


# Each class is a group of options in --help, which shows the docstrings.


@dataclass(frozen=True)
class DataSettings:
    """The images to train on."""

    data: Annotated[str, Option("digits", "PATH|digits", path_unless=("digits",))]
    """A data set as it is: a folder with train/<class>/* and val/<class>/*, or another form that docs/training.md
    lists; or "digits": handwritten digits that come with scikit-learn."""
    val_split: Annotated[float | None, Option(None, "FRACTION", identity=True)]
    """Part of each class's training images to validate with, where the data set has no validation images. Which
    images depends on --seed and their content."""
    cache: Annotated[str, Option("auto", "DIR|auto|none", path_unless=("auto", "none"))]
    """Where to store decoded images: in a folder; "auto": in ~/.cache/alexnet_torch if they fit in half of
    the free disk space; "none": nowhere, so that each epoch decodes them again."""
    skip_bad: Annotated[bool, Option(False)]
    """Leave out files that cannot be read, instead of stopping with a list of them."""
    image_size: Annotated[int, Option(lambda recipe: recipe.image_size, "N", identity=True)]
    """Height and width of the network's images, in pixels."""
    no_mirror: Annotated[bool, Option(lambda recipe: not recipe.mirror, identity=True)]
    """Do not mirror training images: for digits, letters and the like."""
    colour: Annotated[str, Option(lambda recipe: recipe.colour_name, choices=COLOUR_NAMES, identity=True)]
    """Colour noise of training images: along the eigenvectors of their colours, scaled by the eigenvalues
    ("paper") or by the standard deviations ("source")."""


@dataclass(frozen=True)
class TrainingSettings:
    """How to train."""

    recipe: Annotated[str, Option("paper", choices=RECIPES)]
    """The architecture and how to train it; see alexnet_torch/recipes/catalogue.py."""
    ablation: Annotated[str | None, Option(None, "NAME", choices=ABLATIONS)]
    """Change one thing of the recipe, as in the paper's comparisons; see alexnet_torch/recipes/ablations.py."""
    epochs: Annotated[int, Option(lambda recipe: recipe.epochs, "N")]
    """Passes over the training images."""
    max_steps: Annotated[int | None, Option(None, "N")]
    """Stop after this many steps in total, even within an epoch."""
    batch_size: Annotated[int, Option(lambda recipe: recipe.batch_size, "N", identity=True)]
    """Images in a step, over all devices."""
    lr: Annotated[float, Option(lambda recipe: recipe.lr, "RATE")]
    """Base learning rate."""
    seed: Annotated[int, Option(0, "N", identity=True)]
    """Seed of all random numbers."""


@dataclass(frozen=True)
class StartSettings:
    """Initial weights: the run's own checkpoint with --resume, else those of --init, else random ones."""

    init: Annotated[str | None, Option(None, "RUN|FILE", identity=True, path_unless=())]
    """Weights to start from: a run's folder, or a file that "python -m alexnet_torch import" reads. With
    another number of classes, the last stage gets random weights."""
    init_stages: Annotated[str | None, Option(None, "STAGES", "all", identity=True)]
    """Take only these stages from --init, for example conv1,conv2 or conv1..conv5; the others get random weights."""
    freeze: Annotated[str | None, Option(None, "STAGES", identity=True)]
    """Stages whose weights and biases do not change, for example conv1..conv5."""


@dataclass(frozen=True)
class PlacementSettings:
    """Devices and processes."""

    devices: Annotated[str | None, Option(None, "NAME[,NAME]", "the visible GPUs, else the CPU")]
    """One device for all towers, or one for each: cpu, cuda:0 or cuda:0,cuda:1."""
    split: Annotated[str, Option("auto", choices=("auto", "none", "devices", "ranks", "hybrid"))]
    """Put all towers on one device ("none"), each tower on its own ("devices"), or on their own where a
    process has enough GPUs ("auto"). Under torchrun also: one tower in each process ("ranks"), or all convolutions
    and a shard of each linear stage in each process ("hybrid")."""
    timeout: Annotated[float, Option(600.0, "SECONDS")]
    """How long processes of torchrun wait for each other before they stop: longer than a step or a
    checkpoint takes."""
    amp: Annotated[str | None, Option(None, choices=("bf16", "fp16"), identity=True)]
    """Compute convolutions and matrix products in 16 bits, for GPUs; weights, normalisation and loss stay
    in 32 bits."""
    compile: Annotated[bool, Option(False)]
    """Compile the network with torch.compile: about a minute at the first start, less at later ones."""


@dataclass(frozen=True)
class RunSettings:
    """What the run saves, and how often."""

    output: Annotated[str, Option(None, "DIR", "runs/<recipe>-<time>", path_unless=())]
    """The run's folder."""
    resume: Annotated[bool, Option(False)]
    """Continue the run in --output from its newest intact checkpoint, with its settings where no option is given."""
    log_every: Annotated[int, Option(20, "N")]
    """Steps between reports."""
    val_every: Annotated[int, Option(1, "N")]
    """Epochs between validations."""
    save_every: Annotated[float, Option(10.0, "MINUTES")]
    """Minutes between checkpoints; each validation saves one, too."""
    track: Annotated[str | None, Option(None, choices=("trackio", "wandb", "mlflow"))]
    """Send the metrics to this tracker, too, whose package must be installed."""


# dataclass puts the fields of the last base first: config.json has them in the order of this file
@dataclass(frozen=True)
class Settings(RunSettings, PlacementSettings, StartSettings, TrainingSettings, DataSettings):
    """Every setting of a run, resolved."""

    def __post_init__(self) -> None:
        for name in ("image_size", "epochs", "batch_size", "log_every", "val_every"):
            self._require(name, getattr(self, name) >= 1, "1 or more")
        self._require("val_split", self.val_split is None or 0 < self.val_split < 1, "between 0 and 1, such as 0.1")
        self._require("max_steps", self.max_steps is None or self.max_steps >= 1, "1 or more")
        self._require("lr", self.lr > 0 and math.isfinite(self.lr), "positive")
        self._require("seed", 0 <= self.seed < 1 << 62, "0 or more, and below 2^62")
        self._require("timeout", self.timeout > 0 and math.isfinite(self.timeout), "positive")
        self._require("save_every", self.save_every > 0 and math.isfinite(self.save_every), "positive")
        for name, option in options_of(Settings).items():
            valid = not option.choices or getattr(self, name) in (*option.choices, option.default)
            self._require(name, valid, f"one of {', '.join(option.choices)}")
        self._require("colour", self.ablation != "no-colour" or self.colour == "none", "none for --ablation no-colour")
        self._require("init_stages", self.init_stages is None or self.init is not None, "given with --init")

    def _require(self, name: str, holds: bool, must: str) -> None:
        if not holds:
            raise UserError(f"{flag(name)} {getattr(self, name)}: must be {must}")

    def identity(self) -> dict[str, Any]:
        """Returns the settings, by option, that must be the same to resume a checkpoint of this run."""
        recorded = self.recorded()
        return {flag(name): recorded[name] for name, option in options_of(Settings).items() if option.identity}

    def recorded(self) -> dict[str, Any]:
        """Returns the settings as config.json has them: with paths from the root, to be found from any folder."""
        values = asdict(self)
        for name in _paths_in(values):
            values[name] = str(Path(values[name]).absolute())
        return values


def flag(name: str) -> str:
    """Returns how the command line spells a setting's name."""
    return f"--{name.replace('_', '-')}"


def _paths_in(values: dict[str, Any]) -> list[str]:
    """Returns the names of the values that are paths."""
    options = options_of(Settings).items()
    paths = {"config": ()} | {name: o.path_unless for name, o in options if o.path_unless is not None}
    return [name for name, others in paths.items() if isinstance(values.get(name), str) and values[name] not in others]


def _with_homes(values: dict[str, Any]) -> dict[str, Any]:
    """Returns the values with ~ and ~user replaced in paths, which a shell does not do after an equals sign."""
    expanded = {}
    for name in _paths_in(values):
        try:
            expanded[name] = str(Path(values[name]).expanduser())
        except RuntimeError as error:
            raise UserError(
                f"{flag(name)} {values[name]}: {str(error).rstrip('.')}; write the folder's full path"
            ) from error
        if "\0" in values[name] or not values[name]:
            raise UserError(f"{flag(name)} {values[name]!r}: is no path; name a file or folder")
    return values | expanded


def options_of(group: type) -> dict[str, Option]:
    """Returns the options of `Settings`, or of one of its bases, by name."""
    hints = get_type_hints(group, include_extras=True)
    return {setting.name: hints[setting.name].__metadata__[0] for setting in fields(group)}


def resolve(given: dict[str, Any]) -> Settings:
    """Returns a run's settings: the given options, then the run to resume or repeat, the recipe and the defaults.

    Raises:
        UserError: a value is invalid, or there is no run to resume or repeat.
    """
    source = "--config" if "config" in given else "--resume"
    given = _with_homes(given)
    chosen = {**_with_homes(_earlier_settings(given)), **given}
    chosen.pop("config", None)
    options = options_of(Settings)
    name = chosen.get("recipe", options["recipe"].default)
    if name not in RECIPES:
        raise UserError(f"{source}: config.json names the unknown recipe {name!r}; choose one with --recipe")
    recipe = apply_ablation(RECIPES[name](), chosen.get("ablation"))
    defaults = {key: o.default(recipe) if callable(o.default) else o.default for key, o in options.items()}
    defaults["output"] = f"runs/{name}-{datetime.now():%Y%m%d-%H%M%S}"
    try:
        return Settings(**{**defaults, **chosen})
    except TypeError as error:  # the command line's values have the right types; those of a file may not
        raise UserError(f"{source}: config.json has a setting of the wrong type ({error}); restore the file") from error


def _earlier_settings(given: dict[str, Any]) -> dict[str, Any]:
    """Returns the settings of the run to resume or to repeat; none for a new run."""
    if not given.get("resume"):
        if "config" not in given:
            return {}
        config = Path(given["config"])
        missing = f" {config}: there is no such file; name a run's config.json"
        settings = _read_settings(config, "--config", missing)
        return {name: value for name, value in settings.items() if name not in ("output", "resume")}
    if "config" in given:
        raise UserError("--config: repeats a run in a new folder, --resume continues one; give one of the two")
    if "output" not in given:
        raise UserError("--resume: name the run's folder with --output")
    folder = Path(given["output"])
    missing = f": {folder} holds no run (no config.json); start one without --resume"
    return _read_settings(folder / CONFIG, "--resume", missing)


def _read_settings(config: Path, source: str, missing: str) -> dict[str, Any]:
    try:
        settings: dict[str, Any] = dict(json.loads(config.read_text())["settings"])
    except FileNotFoundError as error:
        raise UserError(f"{source}{missing}") from error
    except OSError as error:
        raise UserError(f"{source}: {explain_os_error(error)}") from error
    except (ValueError, KeyError, TypeError) as error:
        fix = "restore it, or start a new run in another folder"
        raise UserError(f"{source}: {config} cannot be read ({error}); {fix}") from error
    if unknown := set(settings) - {f.name for f in fields(Settings)}:
        names = ", ".join(sorted(unknown))
        raise UserError(f"{source}: {config} has unknown settings ({names}); use the version that wrote it")
    return settings

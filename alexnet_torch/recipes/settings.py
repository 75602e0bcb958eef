"""The settings of a run: one list, from which the options of train.py, the defaults and a run's key are derived.

A value given on the command line comes first; then, with --resume or --config, the earlier run's value; then
the recipe's; then the default in this list. To add an option, add a field to one of the groups.
"""

import json
import math
import os
from collections.abc import Callable, Collection, Mapping
from dataclasses import asdict, dataclass, fields, replace
from datetime import datetime
from functools import cache
from pathlib import Path
from typing import Annotated, Any, get_type_hints

from alexnet_torch.errors import UserError
from alexnet_torch.files import reading
from alexnet_torch.recipes.catalogue import RECIPES
from alexnet_torch.recipes.recipe import ABLATIONS, COLOURS, SCHEDULES, Recipe, apply_ablation
from alexnet_torch.run_folder import CONFIG

Rule = tuple[Callable[[Any], bool], str]  # whether a value holds, and what it must be, for the message
_COUNT: Rule = (lambda value: value >= 1, "1 or more")
_POSITIVE: Rule = (lambda value: 0 < value < math.inf, "positive")
_NOT_NEGATIVE: Rule = (lambda value: 0 <= value < math.inf, "0 or more")
_BELOW_1: Rule = (lambda value: 0 <= value < 1, "0 or more, and below 1")
_FRACTION: Rule = (lambda value: 0 < value < 1, "between 0 and 1, such as 0.1")
_SEED: Rule = (lambda value: 0 <= value < 1 << 62, "0 or more, and below 2^62")


@dataclass(frozen=True)
class Option:
    """What a setting's type does not say."""

    default: Any | Callable[[Recipe], Any]  # the value if nothing else gives one, or a function of the recipe
    metavar: str | None = None  # the values, as --help shows them; by default the choices
    default_text: str | None = None  # the default, as --help shows it; by default str(default), or "the recipe's"
    choices: Collection[str] = ()  # all valid values; empty if there are more
    rule: Rule | None = None  # of the values but None
    key: bool = False  # whether it is part of the run's key: a checkpoint is resumed only with the same value
    alias: str | None = None  # another name of the option
    changes_result: bool = True  # whether runs that differ only in it may learn different weights
    path_unless: Collection[str] | None = None  # the value is a path, recorded from the root, unless it is one of these


# each class is a group of options in --help, which shows the docstrings


@dataclass(frozen=True)
class DataSettings:
    """The images to train on."""

    data: Annotated[str, Option("digits", "PATH|digits", path_unless=("digits",))]
    """A data set as it is: a folder with train/<class>/* and val/<class>/*, or another form that docs/training.md
    lists; or "digits": handwritten digits that come with scikit-learn."""
    val_split: Annotated[float | None, Option(None, "FRACTION", rule=_FRACTION, key=True)]
    """Part of each class's training images to validate with, where the data set has no validation images. Which
    images depends on --seed and their content."""
    cache: Annotated[str, Option("auto", "DIR|auto|none", path_unless=("auto", "none"), changes_result=False)]
    """Where to store decoded images: in a folder; "auto": in ~/.cache/alexnet_torch if they fit in half of
    the free disk space; "none": nowhere, so that each epoch decodes them again."""
    skip_bad: Annotated[bool, Option(False)]
    """Leave out files that cannot be read, instead of stopping with a list of them."""
    workers: Annotated[int | None, Option(None, "N", "one for each core", rule=_COUNT, changes_result=False)]
    """Processes that decode images, or threads that read decoded ones."""
    image_size: Annotated[int, Option(lambda recipe: recipe.image_size, "N", rule=_COUNT, key=True)]
    """Height and width of the network's images, in pixels."""
    no_mirror: Annotated[bool, Option(lambda recipe: not recipe.mirror, key=True)]
    """Do not mirror training images: for digits, letters and the like."""
    colour: Annotated[str, Option(lambda r: r.colour.convention if r.colour else "none", choices=COLOURS, key=True)]
    """Colour noise of training images: along the eigenvectors of their colours, scaled by the eigenvalues
    ("paper") or by the standard deviations ("source")."""


@dataclass(frozen=True)
class TrainingSettings:
    """How to train."""

    recipe: Annotated[str, Option("paper", choices=RECIPES)]
    """The architecture and how to train it; see alexnet_torch/recipes/catalogue.py."""
    ablation: Annotated[str | None, Option(None, "NAME", choices=ABLATIONS)]
    """Change one thing of the recipe, as in the paper's comparisons; see alexnet_torch/recipes/recipe.py."""
    epochs: Annotated[int, Option(lambda recipe: recipe.epochs, "N", rule=_COUNT)]
    """Passes over the training images."""
    max_steps: Annotated[int | None, Option(None, "N", rule=_COUNT)]
    """Stop after this many steps in total, even within an epoch."""
    batch_size: Annotated[int, Option(lambda recipe: recipe.batch_size, "N", rule=_COUNT, key=True)]
    """Images in a step, over all devices."""
    lr: Annotated[float, Option(lambda recipe: recipe.lr, "RATE", rule=_POSITIVE)]
    """Base learning rate."""
    schedule: Annotated[str | None, Option(None, None, "the recipe's", choices=SCHEDULES)]
    """How the rate changes: divided by 10 where validation stops improving ("plateau"), or at a third and two thirds of
    the epochs ("steps"); to 0 along a cosine; or not at all."""
    warmup_epochs: Annotated[float, Option(lambda recipe: recipe.warmup_epochs, "N", rule=_NOT_NEGATIVE)]
    """First epochs, in which the rate rises in each step from a hundredth."""
    momentum: Annotated[float, Option(lambda recipe: recipe.momentum, "M", rule=_BELOW_1)]
    """Part of the last update in the next; Adam's beta1."""
    weight_decay: Annotated[float, Option(lambda recipe: recipe.weight_decay, "RATE", rule=_NOT_NEGATIVE)]
    """Decay of the weights, and of the biases where the recipe has one."""
    label_smoothing: Annotated[float, Option(0.0, "PART", rule=_BELOW_1)]
    """Part of each label's probability that all classes share in the training loss."""
    grad_accumulation: Annotated[int, Option(1, "N", rule=_COUNT)]
    """Compute each batch in this many parts, one after the other, in less memory."""
    seed: Annotated[int, Option(0, "N", rule=_SEED, key=True)]
    """Seed of all random numbers."""


@dataclass(frozen=True)
class StartSettings:
    """Initial weights: the run's own checkpoint with --resume, else those of --init, else random ones."""

    init: Annotated[str | None, Option(None, "RUN|FILE", key=True, path_unless=())]
    """Weights to start from: a run's folder, or a file that "python -m alexnet_torch import" reads. For
    other classes, the last stage gets random weights."""
    init_stages: Annotated[str | None, Option(None, "STAGES", "all", key=True)]
    """Take only these stages from --init, for example conv1,conv2 or conv1..conv5; the others get random weights."""
    freeze: Annotated[str | None, Option(None, "STAGES", key=True)]
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
    timeout: Annotated[float, Option(600.0, "SECONDS", rule=_POSITIVE, changes_result=False)]
    """How long processes of torchrun wait for each other before they stop: longer than a step or a
    checkpoint takes."""
    precision: Annotated[str, Option("tf32", choices=("fp32", "tf32", "bf16", "fp16"), key=True, alias="--amp")]
    """Number format of convolutions and matrix products: 32 bits, which GPUs round to 19 for "tf32"; or 16. Weights,
    normalisation and loss have 32 bits."""
    compile: Annotated[bool, Option(False)]
    """Replay the step as a CUDA graph on one GPU; elsewhere compile the network with torch.compile, for about a
    minute at the first start."""


@dataclass(frozen=True)
class RunSettings:
    """What the run saves, and how often."""

    output: Annotated[str, Option(None, "DIR", "runs/<recipe>-<time>", path_unless=(), changes_result=False)]
    """The run's folder."""
    resume: Annotated[bool, Option(False, changes_result=False)]
    """Continue the run in --output from its newest intact checkpoint, with its settings where no option is given."""
    log_every: Annotated[int, Option(20, "N", rule=_COUNT, changes_result=False)]
    """Steps between reports."""
    val_every: Annotated[int, Option(1, "N", rule=_COUNT)]
    """Epochs between validations."""
    val_batch_size: Annotated[int | None, Option(None, "N", "--batch-size's", rule=_COUNT)]
    """Images that validation computes together."""
    save_every: Annotated[float, Option(10.0, "MINUTES", rule=_POSITIVE, changes_result=False)]
    """Minutes between checkpoints; each validation saves one, too."""
    track: Annotated[str | None, Option(None, choices=("trackio", "wandb", "mlflow"), changes_result=False)]
    """Send the metrics to this tracker, too, whose package must be installed."""


@dataclass(frozen=True)
class RunOptions(RunSettings):
    """What the run saves, and how often."""

    # options only: config.json does not name another one, and a resumed run may be watched in another way
    config: Annotated[str | None, Option(None, "FILE", path_unless=())]
    """Repeat the run whose config.json this is, in a new --output, with its settings where no option is given."""
    quiet: Annotated[bool, Option(False)]
    """Print only errors, warnings and what was found in the data."""
    verbose: Annotated[bool, Option(False)]
    """Print also each checkpoint, machine and versions, and the warnings of libraries; lines instead of a bar."""


_GROUPS = (DataSettings, TrainingSettings, StartSettings, PlacementSettings, RunOptions)
GROUPS = dict(zip(("data", "training", "start", "placement", "run"), _GROUPS, strict=True))


# dataclass puts the fields of the last base first: config.json has them in the order of this file
@dataclass(frozen=True)
class Settings(RunSettings, PlacementSettings, StartSettings, TrainingSettings, DataSettings):
    """Every setting of a run, resolved. Raises a UserError if a value is invalid."""

    def __post_init__(self) -> None:
        for name, option in options_of(Settings).items():
            value, must = getattr(self, name), None
            if option.choices and value not in (*option.choices, option.default):
                must = f"one of {', '.join(option.choices)}"
            elif option.rule and value is not None and not option.rule[0](value):
                must = option.rule[1]
            elif name == "colour" and self.ablation == "no-colour" and value != "none":
                must = "none for --ablation no-colour"
            elif name == "init_stages" and value is not None and self.init is None:
                must = "given with --init"
            if must:
                raise UserError(f"{flag(name)} {value}: must be {must}")

    def run_key(self) -> dict[str, Any]:
        """Returns the settings, by option, that must be the same to resume a checkpoint of this run."""
        values = {name: getattr(self, name) for name, option in options_of(Settings).items() if option.key}
        return {flag(name): str(Path(v).resolve()) if _is_path(name, v) else v for name, v in values.items()}

    def recorded(self) -> dict[str, Any]:
        """Returns the settings as config.json has them: with paths from the root, to be found from any folder."""
        return {name: str(Path(v).absolute()) if _is_path(name, v) else v for name, v in asdict(self).items()}


def flag(name: str) -> str:
    return f"--{name.replace('_', '-')}"


@cache
def options_of(group: type) -> dict[str, Option]:
    hints = get_type_hints(group, include_extras=True)
    return {setting.name: hints[setting.name].__metadata__[0] for setting in fields(group)}


def deciding(settings: Mapping[str, Any]) -> dict[str, Any]:
    """Returns those of a run's settings, by name, that decide what it learns: by them, runs are compared."""
    others = {name for name, option in options_of(Settings).items() if not option.changes_result}
    return {name: value for name, value in settings.items() if name not in others}


def resolve(given: Mapping[str, Any]) -> tuple[Settings, Recipe]:
    """Returns the settings of a run with values by name, from `with_earlier`, and the recipe with its ablation."""
    options = options_of(Settings)
    try:
        name = given.get("recipe", options["recipe"].default)
        if name not in RECIPES:
            raise UserError(f"--recipe {name}: must be one of {', '.join(RECIPES)}")
        recipe = apply_ablation(RECIPES[name](), given.get("ablation"))
        defaults = {key: o.default(recipe) if callable(o.default) else o.default for key, o in options.items()}
        settings = Settings(**{**defaults, "output": default_output(given), **given})
    except TypeError as error:  # the command line's values have the right names and types; those of a file may not
        raise UserError(f"config.json: has a setting of another name or type ({error}); restore the file") from error
    decay = {"weight_decay": settings.weight_decay, "bias_decay": settings.weight_decay, "stage_decay": {}}
    if not recipe.bias_decay:
        del decay["bias_decay"]
    changes: dict[str, Any] = decay if settings.weight_decay != recipe.weight_decay else {}
    if settings.schedule:
        changes["schedule"] = SCHEDULES[settings.schedule](settings.epochs)
    return settings, replace(recipe, momentum=settings.momentum, warmup_epochs=settings.warmup_epochs, **changes)


def default_output(given: Mapping[str, Any]) -> str:
    """Returns the folder of a run without --output: the recipe and the time are in its name."""
    return f"runs/{given.get('recipe', options_of(Settings)['recipe'].default)}-{datetime.now():%Y%m%d-%H%M%S}"


def with_homes(given: Mapping[str, Any]) -> dict[str, Any]:
    """Returns the options with ~ and ~user replaced in paths, which a shell does not do after an equals sign."""
    paths = {name: os.path.expanduser(value) for name, value in given.items() if _is_path(name, value)}  # noqa: PTH111
    for name, path in paths.items():
        if not path or "\0" in path or path.startswith("~"):
            raise UserError(f"{flag(name)} {given[name]!r}: is no path on this machine; write the folder's full path")
    return {**given, **paths}


def with_earlier(given: Mapping[str, Any]) -> dict[str, Any]:
    """Returns the options given, and the settings of the run that --resume continues or --config repeats."""
    new = {name: value for name, value in given.items() if name != "config"}
    if given.get("resume"):
        if "config" in given:
            raise UserError("--config: repeats a run in a new folder, --resume continues one; give one of the two")
        if "output" not in given:
            raise UserError("--resume: name the run's folder with --output")
        config = Path(given["output"]) / CONFIG
        named = f"--resume: {config}"
        if not config.exists():
            raise UserError(f"--resume: {config.parent} holds no run (no {CONFIG}); start one without --resume")
    elif "config" in given:
        config = Path(given["config"])
        named = f"--config {config}"
    else:
        return new
    with reading(named, "name a run's config.json; if this is one, restore it"):
        earlier = dict(json.loads(config.read_text())["settings"])
    return {name: value for name, value in earlier.items() if name not in ("output", "resume")} | new


def _is_path(name: str, value: object) -> bool:
    others = () if name == "config" else options_of(Settings)[name].path_unless
    return isinstance(value, str) and others is not None and value not in others

"""The command line of train.py, derived from the settings."""

import contextlib
import io
from collections.abc import Iterator
from dataclasses import asdict, dataclass, field, make_dataclass
from typing import Annotated, Any, get_type_hints

import tyro

from alexnet_torch.errors import UserError
from alexnet_torch.recipes import settings
from alexnet_torch.recipes.settings import Option, options_of


@dataclass(frozen=True)
class RunOptions(settings.RunSettings):
    """What the run saves, and how often."""

    config: Annotated[str | None, Option(None, "FILE")]  # an option only: config.json does not name another one
    """Repeat the run whose config.json this is, in a new --output, with its settings where no option is given."""
    quiet: Annotated[bool, Option(False)]  # as is this one: a resumed run may be watched in another way
    """Print only errors, warnings and what was found in the data."""
    verbose: Annotated[bool, Option(False)]
    """Print also each checkpoint, machine and versions, and the warnings of libraries; lines instead of a bar."""


GROUPS = {
    "data": settings.DataSettings,
    "training": settings.TrainingSettings,
    "start": settings.StartSettings,
    "placement": settings.PlacementSettings,
    "run": RunOptions,
}


def parse(arguments: list[str] | None = None, program: str = "train.py") -> dict[str, Any]:
    """Returns the options given on a command line (by default sys.argv), by the names of the settings.

    The program's name is for the help and for messages.

    Raises:
        UserError: an option is unknown, or its value is of the wrong type.
        SystemExit: of status 0, after --help.
    """
    groups = [(name, _tyro_group(group)) for name, group in GROUPS.items()]
    parser = make_dataclass("Options", [(name, group, field(default_factory=group)) for name, group in groups])
    with one_line_errors(program):
        options: Any = tyro.cli(
            parser,
            args=arguments,
            prog=program,
            description="Train AlexNet, in two towers, on a folder of images.",
            config=(tyro.conf.OmitArgPrefixes, tyro.conf.FlagCreatePairsOff),
        )
    values = {name: value for group in GROUPS for name, value in asdict(getattr(options, group)).items()}
    return {name: value for name, value in values.items() if value is not None and value is not False}


def _tyro_group(group: type) -> type:
    """Returns a dataclass of a group's options for tyro; None and False say that an option was not given."""
    types = get_type_hints(group)
    options: list[tuple[str, Any, Any]] = []
    for name, option in options_of(group).items():
        if types[name] is bool:
            options.append((name, bool, False))
            continue
        kind = tyro.extras.literal_type_from_choices(option.choices) if option.choices else types[name]
        default = "the recipe's" if callable(option.default) else "none" if option.default is None else option.default
        hint = f"default: {option.default_text or default}"
        if option.choices and option.metavar:
            hint = f"one of {', '.join(option.choices)}; {hint}"
        shown = tyro.conf.arg(help_behavior_hint=f"({hint})", metavar=option.metavar or "|".join(option.choices))
        options.append((name, Annotated[kind | None, shown], None))
    # tyro finds the docstrings in the base
    return make_dataclass(group.__name__, options, bases=(group,), namespace={"__doc__": group.__doc__}, frozen=True)


@contextlib.contextmanager
def one_line_errors(program: str) -> Iterator[None]:
    """Replaces the box that tyro prints for a wrong command line by a UserError of one line."""
    printed = io.StringIO()
    try:
        with contextlib.redirect_stderr(printed):
            yield
    except SystemExit as error:
        if not error.code:
            raise
        box = printed.getvalue().partition("│ ───")[0]  # the lines after it repeat the help
        words = " ".join(line.strip("│╭╮╰╯─ ") for line in box.splitlines()[1:]).split()
        raise UserError(f"{' '.join(words)} (see {program} --help)") from error

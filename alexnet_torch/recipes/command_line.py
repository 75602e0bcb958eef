"""The command line of train.py, derived from the settings."""

import contextlib
import io
import re
from collections.abc import Iterator
from dataclasses import asdict, dataclass, field, make_dataclass
from itertools import dropwhile, takewhile
from typing import Annotated, Any, get_type_hints

import tyro

from alexnet_torch.errors import UserError
from alexnet_torch.recipes import settings
from alexnet_torch.recipes.settings import Option, options_of

# lines of tyro's box, also where the terminal has only ASCII
_RULE = re.compile(r"[│╰ ]*[─-]{10}")
# tyro's messages of a value that is no number, and of one that is no choice
_NO_NUMBER = re.compile(
    r"Error parsing (--[\w-]+): "
    r".*(?:(invalid literal for int\(\) with base 10)|could not convert string to float): (.+)"
)
_NO_CHOICE = re.compile(r"invalid choice (.+) for argument '(--[\w-]+)'\. Expected one of \((.*)\)\.")


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
        below_title = dropwhile(_RULE.match, printed.getvalue().splitlines()[1:])
        box = takewhile(lambda line: not _RULE.match(line), below_title)  # the lines after it repeat the help
        words = " ".join(line.strip("│ ") for line in box).split()
        raise UserError(f"{_in_plain_words(' '.join(words))} (see {program} --help)") from error


def _in_plain_words(text: str) -> str:
    """Returns tyro's message without Python's types and the choice None, by which our options are not given."""
    if found := _NO_NUMBER.search(text):
        option, whole, value = found.groups()
        return f"{option} {value}: must be a {'whole number' if whole else 'number'}"
    if found := _NO_CHOICE.search(text):
        value, option, listed = found.groups()
        choices = sorted(choice for choice in re.findall(r"'([^']*)'", listed) if choice != "None")
        return f"{option} {value}: must be one of {', '.join(choices)}"
    return text

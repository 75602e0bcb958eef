"""The two command lines: train.py, whose options are the settings, and python -m alexnet_torch with its commands."""

import inspect
import re
import sys
from collections.abc import Callable
from contextlib import ExitStack
from typing import Any, Literal, get_args, get_origin, get_type_hints

from alexnet_torch import __version__
from alexnet_torch.commands import COMMANDS, SHARED_ARGUMENTS
from alexnet_torch.console import StopSignal, console
from alexnet_torch.distributed.world import SINGLE_PROCESS, World
from alexnet_torch.errors import OtherRankFailed, RankLost, RunError, UserError, describe_memory_error
from alexnet_torch.files import explain_os_error
from alexnet_torch.native import reuse_freed_memory
from alexnet_torch.recipes.command_line import Parser, parse
from alexnet_torch.recipes.settings import Settings, flag, options_of

OLDEST_TORCH = (2, 9)  # as in requirements.txt
Work = Callable[[list[str], str, World, ExitStack], None]
_OF_ALL = "Every command takes --quiet, for no progress bars, --verbose, for the warnings of libraries, and --version."
_RESTART = "start it again, with --resume if it has done steps"
_NEW_RUN = "start a run in another --output with a smaller --batch-size"  # a run keeps its own


def main(arguments: list[str] | None = None) -> int:
    """Runs the command that the arguments (by default sys.argv) name; returns the exit status."""
    arguments = sys.argv[1:] if arguments is None else arguments
    program = "alexnet-torch" if sys.argv[0].endswith("alexnet-torch") else "python -m alexnet_torch"
    if arguments[:1] == ["train"]:
        return train_main(arguments[1:], f"{program} train")
    return _run(arguments, program, _run_command)


def train_main(arguments: list[str] | None = None, program: str = "train.py") -> int:
    """Trains as one of the run's ranks; returns the exit status. Arguments as for `main`."""
    return _run(sys.argv[1:] if arguments is None else arguments, program, _train, is_training=True)


def _run(arguments: list[str], program: str, work: Work, is_training: bool = False) -> int:
    """Runs a command line; returns its exit status. The one place that prints why it ended early."""
    world, speaks = SINGLE_PROCESS, True
    reuse_freed_memory()
    with console(arguments, output_is_result=not is_training), ExitStack() as after_message:
        try:
            try:
                if "--version" in arguments:
                    print(f"alexnet_torch {__version__}")
                else:
                    world = World.from_environment() if is_training else SINGLE_PROCESS
                    work(arguments, program, world, after_message)
                return 0
            finally:
                sys.stdout.flush()
        except RunError as error:
            status, line = error.exit_status, str(error)
            speaks = error.printed_by == "this rank" or (error.printed_by == "main rank" and world.is_main)
        except KeyboardInterrupt as interrupt:  # before training, which saves first: see StopSignal
            line = "interrupted; the same command continues"
            status, speaks = getattr(interrupt, "exit_status", 130), world.local_rank == 0
        except (OSError, MemoryError, RuntimeError) as error:
            if isinstance(error, OSError):
                cause: str | None = explain_os_error(error)
            elif cause := describe_memory_error(error):
                fix = f"then {_RESTART}; or {_NEW_RUN}" if is_training else "or use smaller images or batches"
                cause += f"; free some, {fix}"
            if cause is None:
                raise
            status, line = 2, f"rank {world.rank}: {cause}" if world.size > 1 else cause
        if speaks:
            print(f"{program}: {line}", file=sys.stderr)
        return status


def _run_command(arguments: list[str], program: str, *_: object) -> None:
    words = [word for word in arguments if word not in ("--quiet", "--verbose")]  # of every command: see `console`
    top = Parser(program, description=f"Train AlexNet, and use trained runs. {_OF_ALL}")
    listed = top.add_subparsers(title="commands", metavar="COMMAND", dest="command", required=True)
    for name, command in COMMANDS.items():
        listed.add_parser(name, help=str(command.__doc__).splitlines()[0])
    name = top.parse_args(words[:1]).command
    given = vars(_parser_of(COMMANDS[name], f"{program} {name}").parse_intermixed_args(words[1:]))
    for option, value in given.items():
        least = 0 if option == "seed" else 1
        if type(value) is int and value < least:
            raise UserError(f"{flag(option)} {value}: must be {least} or more")
    runs = [run.resolve() for run in given.get("runs", ())]
    if len(set(runs)) < len(runs):
        raise UserError(f"{name}: the same run is named twice; name each run once")
    _check_torch()
    with StopSignal():
        COMMANDS[name](**given)


def _check_torch() -> None:
    """Refuses a torch that is too old, before its import ends in a traceback."""
    from importlib.metadata import PackageNotFoundError, version  # 40 ms that --help does not need, and torch does

    try:
        found = version("torch")
    except PackageNotFoundError:  # a torch that no installer put there
        return
    if tuple(map(int, found.split(".")[:2])) < OLDEST_TORCH:
        oldest = ".".join(map(str, OLDEST_TORCH))
        raise UserError(f"torch {found} is installed, but {oldest} is needed; pip install 'torch>={oldest}'")


def _parser_of(command: Callable[..., None], program: str) -> Parser:
    """Returns the parser of a command's options: its parameters, with their annotations and its docstring."""
    described, _, listed = inspect.cleandoc(command.__doc__ or "").partition("\n\nArgs:")
    lines = re.findall(r"^    (\w+)(?: \((.*?)\))?: (.*(?:\n     +.*)*)", SHARED_ARGUMENTS + listed, re.M)
    documented = {name: (values or None, " ".join(text.split())) for name, values, text in lines}
    parser = Parser(program, description=described, allow_abbrev=False)
    hints = get_type_hints(command)
    for name, parameter in inspect.signature(command).parameters.items():
        kind = next((each for each in get_args(hints[name]) if type(None) in get_args(hints[name])), hints[name])
        is_option, is_required = parameter.kind is parameter.KEYWORD_ONLY, parameter.default is parameter.empty
        values, text = documented[name]
        settings: dict[str, Any] = {"metavar": values, "type": kind}
        if kind is bool:
            settings = {"action": "store_true"}
        elif get_origin(kind) is Literal:
            settings |= {"type": int, "choices": get_args(kind)}
        elif get_origin(kind) is tuple:
            settings |= {"type": get_args(kind)[0], "nargs": "+"}
        if not is_required:
            settings["default"] = parameter.default
            text += f" (default: {parameter.default})" if parameter.default not in (None, False, ()) else ""
        settings |= {"required": is_required} if is_option else {} if is_required else {"nargs": "?"}
        parser.add_argument(flag(name) if is_option else name, help=text, **settings)
    return parser


def _train(arguments: list[str], program: str, world: World, after_message: ExitStack) -> None:
    # a rank that waits in torch could not act on a signal: only the one that builds, and says so, handles it
    with StopSignal(raise_early=world.local_rank == 0) as stop:
        try:
            given = parse(arguments, program)
            _check_torch()
            if (world.size > 1 or world.torchrun) and "output" not in given:
                raise UserError("--output: name the run's folder under torchrun: a restart must find the same folder")
        except UserError as error:
            if world.local_rank == 0:  # for its machine
                raise
            raise OtherRankFailed(error.exit_status) from error
        # not at the top: torch takes seconds to import, which --help and errors in the options do not need
        from alexnet_torch.distributed.ranks import Ranks
        from alexnet_torch.training.launch import launch

        patience = given.get("timeout", options_of(Settings)["timeout"].default)
        ranks = Ranks(world, max(60.0, patience))  # imports alone may take so long

        def close(kind: object, *_: object) -> None:
            if kind is None:  # a traceback is printed when the process ends
                ranks.close(failed=True)

        after_message.push(close)  # because NCCL may wait for a lost rank
        try:
            launch(given, ranks, stop)
        except RankLost as lost:
            message = ranks.describe_missing(lost)  # on one of the ranks that are left
            raise (RunError(message) if message else OtherRankFailed(lost.exit_status)) from lost
        ranks.close()

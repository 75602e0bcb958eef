"""The two command lines: train.py, whose options are the settings, and python -m alexnet_torch with its commands."""

import io
import re
import sys
from collections.abc import Callable, Iterator
from contextlib import contextmanager, redirect_stderr
from functools import partial, wraps

from alexnet_torch import __version__
from alexnet_torch.console import console
from alexnet_torch.distributed.world import SINGLE_PROCESS, World
from alexnet_torch.errors import OtherRankFailed, RankLost, RunError, UserError, describe_memory_error
from alexnet_torch.files import explain_os_error
from alexnet_torch.native import reuse_freed_memory
from alexnet_torch.recipes.command_line import parse
from alexnet_torch.signals import StopSignal

PROGRAM, INSTALLED_PROGRAM = "python -m alexnet_torch", "alexnet-torch"
_DESCRIPTION = (
    "Train AlexNet, and use trained runs. Every command takes --quiet, for no progress bars, --verbose, for the "
    "warnings of libraries, and --version."
)
# a run keeps its batch size: --resume refuses another
_MORE_MEMORY = (
    "free some, then start it again, with --resume if it has done steps; "
    "or start a run in another --output with a smaller --batch-size"
)


def installed_main() -> int:
    """Runs the program that pip installs."""
    return main(program=INSTALLED_PROGRAM)


def main(arguments: list[str] | None = None, program: str = PROGRAM) -> int:
    """Runs the command that the arguments (by default sys.argv) name; returns the exit status.

    Messages and the help begin with the program's name.
    """
    arguments = sys.argv[1:] if arguments is None else arguments
    if arguments[:1] == ["train"]:
        return train_main(arguments[1:], f"{program} train")
    return _run(arguments, program, _run_command)


def train_main(arguments: list[str] | None = None, program: str = "train.py") -> int:
    """Trains as one of the run's ranks; returns the exit status. Arguments as for `main`."""
    return _run(sys.argv[1:] if arguments is None else arguments, program, _train, is_training=True)


def _run(
    arguments: list[str], program: str, work: Callable[[list[str], str, World], None], is_training: bool = False
) -> int:
    """Runs a command line; returns its exit status. The one place that prints why it ended early."""
    world, speaks = SINGLE_PROCESS, True
    reuse_freed_memory()
    with console(arguments, output_is_result=not is_training):
        try:
            try:
                if "--quiet" in arguments and "--verbose" in arguments:
                    raise UserError("--quiet: contradicts --verbose; give one of the two")
                if "--version" in arguments:
                    print(f"alexnet_torch {__version__}")
                    return 0
                world = World.from_environment() if is_training else SINGLE_PROCESS
                work(arguments, program, world)
                return 0
            finally:
                sys.stdout.flush()
        except RunError as error:
            status, line = error.exit_status, str(error)
            speaks = error.printed_by == "this rank" or (error.printed_by == "main rank" and world.is_main)
        except KeyboardInterrupt as interrupt:  # before training, which saves first: see StopSignal
            line = "interrupted before training; the same command continues" if is_training else "stopped"
            status, speaks = getattr(interrupt, "exit_status", 130), world.local_rank == 0
        except (OSError, MemoryError, RuntimeError) as error:
            cause = explain_os_error(error) if isinstance(error, OSError) else describe_memory_error(error)
            if cause is None:
                raise
            if not isinstance(error, OSError):
                cause += f"; {_MORE_MEMORY if is_training else 'free some, or use smaller images or batches'}"
            status, line = 2, f"rank {world.rank}: {cause}" if world.size > 1 else cause
        if speaks:
            print(f"{program}: {line}", file=sys.stderr)
        return status


def _run_command(arguments: list[str], program: str, _: World) -> None:
    def parse_only(command: Callable[..., None]) -> Callable[..., Callable[[], None]]:
        """Returns the command for tyro to parse but not to run, so that `_one_line_errors` sees only its messages."""
        return wraps(command)(lambda *values, **options: partial(command, *values, **options))

    import tyro  # not at the top: it takes 0.3 s, which training does not need

    from alexnet_torch.commands import COMMANDS

    app = tyro.extras.SubcommandApp()
    for name, command in COMMANDS.items():
        app.command(name=name)(parse_only(command))
    words = [word for word in arguments if word not in ("--quiet", "--verbose")]  # of every command: see `console`
    config = (tyro.conf.FlagCreatePairsOff,)
    with StopSignal():
        with _one_line_errors(program):
            run_command = app.cli(args=words, prog=program, description=_DESCRIPTION, config=config)
        run_command()


def _train(arguments: list[str], program: str, world: World) -> None:
    # a rank that waits in torch could not act on a signal: only the one that builds, and says so, handles it
    with StopSignal(raise_early=world.local_rank == 0) as stop:
        try:
            given = parse(arguments, program)
            if (world.size > 1 or world.torchrun) and "output" not in given:
                raise UserError("--output: name the run's folder under torchrun: a restart must find the same folder")
        except UserError as error:
            if world.local_rank == 0:  # for its machine
                raise
            raise OtherRankFailed(error.exit_status) from error
        # not at the top: torch takes seconds to import, which --help and errors in the options do not need
        from alexnet_torch.distributed.ranks import Ranks
        from alexnet_torch.training.launch import launch

        ranks = Ranks(world)
        try:
            launch(given, ranks, stop)
        except RankLost as lost:
            message = ranks.describe_missing(lost)  # on one of the ranks that are left
            raise (RunError(message) if message else OtherRankFailed(lost.exit_status)) from lost
        finally:
            ranks.close()


@contextmanager
def _one_line_errors(program: str) -> Iterator[None]:
    """Replaces the box that tyro prints for a wrong command line by a UserError of one line."""
    printed = io.StringIO()
    try:
        with redirect_stderr(printed):
            yield
    except SystemExit as error:
        if not error.code:
            raise
        # below its title the box has the message, a rule, and lines that repeat the help; with ASCII's lines, too
        parts = re.split(r"^[│╰ ]*[─-]{10}.*$", printed.getvalue().partition("\n")[2], flags=re.M)
        text = " ".join(" ".join(line.strip("│ ") for line in next(filter(str.strip, parts), "").splitlines()).split())
        # in plain words: without Python's types and the choice None, by which our options are not given
        text = re.sub(
            r"Error parsing (--\S+): .*invalid literal for int.* base 10: (.+)", r"\1 \2: must be a whole number", text
        )
        text = re.sub(r"Error parsing (--\S+): .*not convert string to float: (.+)", r"\1 \2: must be a number", text)
        if choice := re.fullmatch(r"invalid choice (.+) for argument '(--\S+)'\. Expected one of \((.*)\)\.", text):
            choices = sorted(set(re.findall(r"'([^']*)'", choice[3])) - {"None"})
            text = f"{choice[2]} {choice[1]}: must be one of {', '.join(choices)}"
        near = re.search(r"Perhaps you meant:\W+(--[\w-]+)", printed.getvalue())
        raise UserError(f"{text} ({f'perhaps {near[1]}; ' if near else ''}see {program} --help)") from error

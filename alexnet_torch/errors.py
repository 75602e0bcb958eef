"""How a run ends early: each error has an exit status, and says which rank prints it."""

import re
import signal
from typing import Literal

# what the allocators of GPUs and of CPUs, CUDA itself, cuBLAS and cuDNN say
_NO_MEMORY = re.compile(
    r"(\w+ (error: )?)?out of memory(\. Tried to allocate [\d.]+ \w+)?"
    r"|can't allocate memory(: you tried to allocate \d+ bytes)?|\w+_ALLOC_FAILED"
)


class RunError(Exception):
    """The run ends early. The message names file or option, cause and fix: one line, unless it lists many files."""

    exit_status = 1
    printed_by: Literal["this rank", "main rank", "nobody"] = "this rank"


class UserError(RunError):
    """The user's input is wrong."""

    exit_status = 2


class TrainingError(RunError):
    """Training failed."""

    printed_by = "main rank"


class Diverged(TrainingError):
    """A loss or a weight is not finite."""


class RankLost(TrainingError):
    """Another rank did not answer in time, or is gone: `what` this rank waited in, and the transport's message."""

    def __init__(self, what: str, why: str) -> None:
        self.what, self.why = what, why.splitlines()[0]
        super().__init__(f"lost another process in {what}: {self.why}")


class OtherRankFailed(RunError):
    """Another rank raised an error, and prints it."""

    printed_by = "nobody"

    def __init__(self, exit_status: int) -> None:
        super().__init__("another rank failed")
        self.exit_status = exit_status


class Interrupted(RunError):
    """A signal stopped training, after a checkpoint was saved."""

    printed_by = "main rank"

    def __init__(self, number: int, message: str) -> None:
        super().__init__(message)
        self.exit_status = 128 + number


class OutputLost(RunError):
    """Standard output cannot be written; no reason if its reader has ended, as in `predict ... | head -1`."""

    def __init__(self, reason: str | None) -> None:
        super().__init__(f"standard output cannot be written ({reason}); make room, or send it elsewhere")
        if reason is None:
            self.exit_status, self.printed_by = 128 + signal.SIGPIPE, "nobody"
        else:
            self.exit_status = 2


class Stopped(KeyboardInterrupt):
    """A signal, as Ctrl-C is a KeyboardInterrupt: no code that catches exceptions catches it."""

    def __init__(self, number: int) -> None:
        super().__init__()
        self.exit_status = 128 + number


def describe_memory_error(error: BaseException) -> str | None:
    """Returns a line about memory that the system or a device did not give; None for an error about other things."""
    if isinstance(error, MemoryError):
        return f"there is not enough memory ({str(error) or 'none was left'})"
    # torch's is a RuntimeError: a device's has a class of its own, the system's only words
    found = _NO_MEMORY.search(str(error)) if isinstance(error, RuntimeError) else None
    return f"there is not enough memory ({found[0]})" if found else None

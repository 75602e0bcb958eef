"""How a run ends early, by exit status and by who prints the message.

RunError             1
  UserError          2             the user's input is wrong
  TrainingError      1             training failed; all ranks raise it together
    Diverged         1             a loss or a weight is not finite
    RankLost         1             another rank is gone or does not answer
  OtherRankFailed    that rank's   another rank raised an error
  Interrupted        128 + signal  a signal stopped training, which is saved
  OutputLost         141 or 2      standard output, which is the result, cannot be written

Stopped              128 + signal  a signal before training, or in a command
"""

import re
import signal
from typing import Literal

# what the allocators of GPUs and of CPUs, CUDA itself, cuBLAS and cuDNN say
_NO_MEMORY = re.compile(
    r"(\w+ (error: )?)?out of memory(\. Tried to allocate [\d.]+ \w+)?"
    r"|can't allocate memory(: you tried to allocate \d+ bytes)?|\w+_ALLOC_FAILED"
)


class RunError(Exception):
    """The run ends early. The message names the cause and a fix: one line, unless it lists many files."""

    exit_status = 1
    printed_by: Literal["this rank", "main rank", "nobody"] = "this rank"


class UserError(RunError):
    """The user's input is wrong. The message names the file or option."""

    exit_status = 2


class TrainingError(RunError):
    """Training failed, for example because it diverged. The message names the step."""

    printed_by = "main rank"


class Diverged(TrainingError):
    """A loss or a weight is not finite. The message names the last good checkpoint."""


class RankLost(TrainingError):
    """Another rank did not answer in time, or is gone.

    Args:
        what: the operation in which this rank waited.
        why: the transport's error message.
    """

    def __init__(self, what: str, why: str) -> None:
        self.what, self.why = what, why.splitlines()[0]
        super().__init__(f"lost another process in {what}: {self.why}")


class OtherRankFailed(RunError):
    """Another rank raised an error, and prints it."""

    printed_by = "nobody"

    def __init__(self, exit_status: int) -> None:
        super().__init__(f"another rank failed with status {exit_status}")
        self.exit_status = exit_status


class Interrupted(RunError):
    """A signal stopped training, after a checkpoint was saved."""

    printed_by = "main rank"

    def __init__(self, number: int, message: str) -> None:
        super().__init__(message)
        self.exit_status = 128 + number


class OutputLost(RunError):
    """Standard output cannot be written.

    Args:
        reason: why; None if its reader has ended, as in `predict ... | head -1`: that is no error, and not printed.
    """

    def __init__(self, reason: str | None) -> None:
        super().__init__(f"standard output cannot be written ({reason}); make room, or send it elsewhere")
        self.exit_status = 128 + signal.SIGPIPE if reason is None else 2
        self.printed_by = "nobody" if reason is None else "this rank"


class Stopped(KeyboardInterrupt):
    """A signal, where Ctrl-C would be a KeyboardInterrupt; code that catches exceptions does not catch it."""

    def __init__(self, number: int) -> None:
        super().__init__(f"signal {number}")
        self.exit_status = 128 + number


def describe_memory_error(error: BaseException) -> str | None:
    """Returns a line about memory that the system or a device did not give; None if the error is about other things.

    torch reports missing memory as RuntimeError: of a device as its subclass OutOfMemoryError, of the system in words.
    """
    if isinstance(error, MemoryError):
        return f"there is not enough memory ({str(error) or 'none was left'})"
    found = _NO_MEMORY.search(str(error)) if isinstance(error, RuntimeError) else None
    return f"there is not enough memory ({found[0]})" if found else None

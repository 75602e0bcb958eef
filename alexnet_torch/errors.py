"""The two ways in which a run ends early, by exit status."""


class UserError(Exception):
    """The user's input is wrong: exit status 2.

    The message names the file or option and the mend, reads well on stderr by itself, and is one
    line unless it lists many files.
    """


class TrainingError(Exception):
    """Training itself failed, by diverging say: exit status 1. The message names the step."""


class RankLost(TrainingError):
    """Another process of the run did not come in time, or is gone.

    Args:
        what: this process was waiting for.
        why: the words of the transport.
    """

    def __init__(self, what: str, why: str) -> None:
        self.what, self.why = what, why.splitlines()[0]
        super().__init__(f"lost another process in {what}: {self.why}")


class OtherRankFailed(Exception):
    """Another process of the run has failed, and has said or will say why."""

    def __init__(self, status: int) -> None:
        super().__init__(f"another process failed with status {status}")
        self.status = status

"""The two ways in which a run ends early, by exit status."""


class UserError(Exception):
    """The user's input is wrong: exit status 2.

    The message names the file or option and the mend, reads well on stderr by itself, and is one
    line unless it lists many files.
    """


class TrainingError(Exception):
    """Training itself failed, by diverging say: exit status 1. The message names the step."""

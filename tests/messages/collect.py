"""Finds every message for users in the source, and where a test gives it."""

import ast
import re
from dataclasses import dataclass
from pathlib import Path

from tests.support.paths import PROJECT

ERRORS = {"UserError", "RunError", "TrainingError", "Interrupted", "UnreadableImage"}


@dataclass(frozen=True)
class Message:
    """The text that the source gives to an error.

    Attributes:
        place: file and line.
        parts: its constant parts, between the values that a situation fills in.
    """

    place: str
    parts: tuple[str, ...]

    @property
    def text(self) -> str:
        return "{}".join(self.parts)

    @property
    def mend(self) -> str:
        """What the message tells the user to do: what follows the last semicolon, or its last colon."""
        return self.text.rpartition("; ")[2]


def all_messages() -> list[Message]:
    """Returns all messages that the source writes as text where it raises."""
    files = [PROJECT / "train.py", *sorted((PROJECT / "alexnet_torch").rglob("*.py"))]
    return [message for file in files for message in _messages_in(file)]


def _messages_in(file: Path) -> list[Message]:
    found = []
    for node in ast.walk(ast.parse(file.read_text())):
        if isinstance(node, ast.Call) and getattr(node.func, "id", "") in ERRORS:
            for argument in node.args:
                if parts := _constant_parts(argument):
                    found.append(Message(f"{file.relative_to(PROJECT)}:{node.lineno}", parts))
    return found


def _constant_parts(node: ast.expr) -> tuple[str, ...]:
    if isinstance(node, ast.Constant) and isinstance(node.value, str):
        return (node.value,)
    if not isinstance(node, ast.JoinedStr):
        return ()
    text = "".join(str(v.value) if isinstance(v, ast.Constant) else "\0" for v in node.values)
    return tuple(text.split("\0"))


def words(text: str) -> str:
    """Returns a text's words, without what regular expressions and quotes add, to be found in another's."""
    return re.sub(r"[^a-z0-9]+", " ", text.replace(r"\d", " ").replace(r"\w", " ").lower()).strip()


def is_composed(message: Message) -> bool:
    """Returns whether a message's cause is all filled in, as a system's reason or another error's text."""
    before_mend = message.text.rpartition(";")[0] or message.text
    return not any(len(words(part).split()) >= 2 for part in before_mend.split("{}"))


def places_that_give(message: Message, tests: dict[Path, str]) -> list[Path]:
    """Returns the tests that have three successive words of a message, or all two of one of its parts."""
    found = []
    for part in map(words, message.parts):
        split = part.split()
        size = min(3, len(split))
        runs = [" ".join(split[i : i + size]) for i in range(len(split) - size + 1)] if size >= 2 else []
        found += [path for path, text in tests.items() if any(run in text for run in runs)]
    return sorted(set(found))


def texts_of_tests() -> dict[Path, str]:
    """Returns the words of each test file, but for those about messages themselves."""
    files = (PROJECT / "tests").rglob("*.py")
    return {path: words(path.read_text()) for path in files if path.name not in ("collect.py", "test_all_messages.py")}

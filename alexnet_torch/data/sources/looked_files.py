"""Remembers which files are images by their content: looking at a million text files beside images takes minutes."""

import hashlib
import json
from pathlib import Path

from alexnet_torch.data.sources.image_check import is_image_content
from alexnet_torch.files import atomic_write, remembered_file

KEPT = 1000  # fewer looks are not worth a file


class LookedFiles:
    """Looks at the files of a data set whose suffixes do not say what they are; each once, until it changes.

    Args:
        root: the data set's folder.
    """

    def __init__(self, root: Path) -> None:
        digest = hashlib.sha256(bytes(root.resolve())).hexdigest()[:32]
        self._root, self._path = root, remembered_file("looked-at", f"{digest}.json")
        self._known: dict[str, tuple[int, int, bool]] | None = None  # size, time of change, whether it is an image
        self._looks = 0

    def is_image(self, file: Path) -> bool:
        """Returns whether a file below the root is an image; errors as for `is_image_content`."""
        if self._known is None:
            self._known = self._read()
        name, status = str(file.relative_to(self._root)), file.stat()
        known = self._known.get(name)
        if known and known[:2] == (status.st_size, status.st_mtime_ns):
            return known[2]
        answer = is_image_content(file)
        self._known[name] = status.st_size, status.st_mtime_ns, answer
        self._looks += 1
        return answer

    def save(self) -> None:
        """Writes down what was looked at, if that was much."""
        if self._looks < KEPT or self._path is None:
            return
        text = json.dumps(self._known).encode()
        try:
            self._path.parent.mkdir(parents=True, exist_ok=True)
            atomic_write(self._path, lambda file: file.write(text))
        except OSError:
            pass  # the disk is full or read-only: the next start looks again

    def _read(self) -> dict[str, tuple[int, int, bool]]:
        if self._path is None:
            return {}
        try:
            saved = json.loads(self._path.read_text())
            return {name: (int(size), int(time), bool(answer)) for name, (size, time, answer) in saved.items()}
        except (OSError, ValueError, TypeError, AttributeError):
            return {}

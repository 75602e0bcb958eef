"""Lists the image files below a folder quickly: one look at each entry, a million of them in seconds."""

import os
from collections.abc import Callable, Iterator
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass, field, replace
from pathlib import Path

import numpy as np

from alexnet_torch.data.sources.image_check import EXTENSIONS, is_image_content
from alexnet_torch.data.sources.junk import SYSTEM, PassedOver, junk_reason
from alexnet_torch.data.sources.names import Names
from alexnet_torch.data.sources.tree import ImageFiles, Tree
from alexnet_torch.errors import UserError
from alexnet_torch.run_folder import CHECKPOINTS, CONFIG, FIGURES, METRICS, MODEL_DESCRIPTION, TENSORBOARD

_Entry = tuple[str, int, int]  # name, size, time of the last change


@dataclass
class ImageTree(Tree):
    """The folders and image files below a folder on disk; each is visited once, whatever links lead to it."""

    root: Path
    passed_over: PassedOver = field(default_factory=PassedOver)
    is_image: Callable[[Path], bool] = is_image_content  # of a file whose suffix does not say it
    what: str = ""  # the root in messages; by default as --data names it
    visited: dict[tuple[int, int], str] = field(default_factory=dict)  # (device, inode) of each folder, and its path

    def __post_init__(self) -> None:
        self.what = self.what or f"--data {self.root}"
        self._visit("")

    def again(self) -> "ImageTree":
        """As for every tree: val/ may be a link to train/."""
        return replace(self, visited={})

    def is_file(self, path: str) -> bool:
        """As for every tree."""
        return (self.root / path).is_file()

    def is_folder(self, path: str) -> bool:
        """As for every tree."""
        return (self.root / path).is_dir()

    def content(self, path: str) -> bytes:
        """As for every tree."""
        try:
            return (self.root / path).read_bytes()
        except OSError as error:
            raise self._unreadable(path, error) from error

    def holds_runs(self, folder: str) -> bool:
        """As for every tree."""
        with self._entries(folder) as entries:
            return any(_is_folder(entry) and _is_ours(self.root / folder / entry.name) for entry in entries)

    def subfolders(self, folder: str = "") -> list[str]:
        """As for every tree; also refuses two names that are links to one folder."""
        here, names = self.root / folder, []
        self._visit(folder)
        is_run = _is_ours(here)
        with self._entries(folder) as entries:
            is_folder = {entry.name: _is_folder(entry) for entry in entries}
        for name in sorted(name for name in is_folder if not is_folder[name]):
            is_image = name.lower().rpartition(".")[2] in EXTENSIONS
            self.passed_over.add(junk_reason(name) or ("in no class folder" if is_image else "no image"), folder + name)
        for name in sorted(name for name in is_folder if is_folder[name]):
            reason = junk_reason(name)
            if not reason and ((is_run and name in (CHECKPOINTS, FIGURES, TENSORBOARD)) or _is_ours(here / name)):
                reason = "of a run"
            if reason:
                self.passed_over.add(reason, f"{folder}{name}/")
            elif (same := self._visit(f"{folder}{name}/")) is not None:
                if same.startswith(folder) and same != folder:
                    raise UserError(
                        f"{self.what}: {folder}{name} and {same[:-1]} are one folder, by a link; move the link "
                        "elsewhere"
                    )
                self.passed_over.add("linked twice", f"{folder}{name}/")
            else:
                names.append(name)
        return names

    def images(self, folder: str, deep: bool = True) -> ImageFiles:
        """As for every tree."""
        files: dict[str, list[_Entry]] = {}
        waiting = [folder]
        while waiting:
            here = waiting.pop()
            self._visit(here)
            files[here], below = self._read(here)
            for name in below if deep else ():
                if _is_ours(self.root / here / name):
                    self.passed_over.add("of a run", f"{here}{name}/")
                elif self._visit(f"{here}{name}/") is not None:
                    self.passed_over.add("linked twice", f"{here}{name}/")
                else:
                    waiting.append(f"{here}{name}/")
        in_order = sorted(files, key=lambda here: here[:-1])  # as os.walk names them, without the "/"
        entries = [entry for here in in_order for entry in files[here]]
        return ImageFiles(
            folder,
            Names.of([here + entry[0] for here in in_order for entry in files[here]]),
            np.array([size for _, size, _ in entries], np.int64),
            np.array([time for _, _, time in entries], np.int64),
        )

    def _read(self, folder: str) -> tuple[list[_Entry], list[str]]:
        """Returns a folder's image files, sorted by name, and the names of its folders."""
        files, folders = [], []
        with self._entries(folder) as entries:
            for entry in entries:  # a million times: each microsecond here is a second at the start
                name = entry.name
                lower = name.lower()
                if name[0] == "." or lower in SYSTEM:
                    self.passed_over.add(junk_reason(name) or "", folder + name)
                    continue
                is_named = lower.rpartition(".")[2] in EXTENSIONS
                try:
                    if entry.is_dir():
                        folders.append(name)
                    elif not entry.is_file() and not entry.is_symlink():  # reading a pipe would wait for ever
                        self.passed_over.add("no regular file", folder + name)
                    else:
                        status = entry.stat()
                        # what is empty is not looked at: reading a file of /proc may wait for ever
                        if is_named or (status.st_size and self.is_image(self.root / folder / name)):
                            files.append((name, status.st_size, status.st_mtime_ns))
                        else:
                            self.passed_over.add("no image", folder + name)
                except OSError:
                    if is_named:  # a broken link: decoding reports it with the other unreadable files
                        files.append((name, -1, 0))
                    else:
                        self.passed_over.add("broken link", folder + name)
        files.sort()
        return files, sorted(folders)

    @contextmanager
    def _entries(self, folder: str) -> "Iterator[Iterator[os.DirEntry[str]]]":
        """Opens a folder's entries, whose status is then read by name and not by path: a fifth faster."""
        with ExitStack() as opened:
            try:
                descriptor = os.open(self.root / folder, os.O_RDONLY | os.O_DIRECTORY)
                opened.callback(os.close, descriptor)
                entries = opened.enter_context(os.scandir(descriptor))
            except OSError as error:
                raise self._unreadable(folder, error) from error
            yield entries

    def _unreadable(self, folder: str, error: OSError) -> UserError:
        path = self.root / folder
        if isinstance(error, PermissionError):
            return UserError(f"{self.what}: no permission to read {path}; change its permissions")
        return UserError(f"{self.what}: {path} cannot be read ({error.strerror}); mend it or move it elsewhere")

    def _visit(self, folder: str) -> str | None:
        """Marks a folder as visited; returns the path by which it was before, None if it was not or by this path."""
        try:
            status = (self.root / folder).stat()
        except OSError as error:
            raise self._unreadable(folder, error) from error
        before = self.visited.setdefault((status.st_dev, status.st_ino), folder)
        return None if before == folder else before


def _is_folder(entry: "os.DirEntry[str]") -> bool:
    try:
        return entry.is_dir()
    except OSError:  # a link to itself
        return False


def _is_ours(folder: Path) -> bool:
    """Returns whether a folder is a training run's or has decoded images, which people put beside their images."""
    pairs = ((CONFIG, METRICS), (CONFIG, MODEL_DESCRIPTION), ("manifest.json", "mean.npy"))
    return any(all((folder / name).is_file() for name in pair) for pair in pairs)

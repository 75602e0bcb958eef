"""Sizes and times of the files that a source reads."""

from collections.abc import Sequence
from pathlib import Path

import numpy as np

from alexnet_torch.data.sources.names import Names
from alexnet_torch.data.sources.source import SourceFiles


def list_files(root: Path, files: Sequence[Path]) -> SourceFiles:
    """Returns the state of files in a folder, or of the one file that `root` is."""
    status = [file.stat() for file in files]
    return SourceFiles(
        Names.of(file.relative_to(root).as_posix() for file in files),
        np.array([each.st_size for each in status], np.int64),
        np.array([each.st_mtime_ns for each in status], np.int64),
    )

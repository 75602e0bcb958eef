"""Keeps the index of large archives: listing a million members takes a minute, reading their list a second."""

import hashlib
import json
import zipfile
import zlib
from collections.abc import Callable, Sequence
from pathlib import Path

import numpy as np

from alexnet_torch.data.sources.archive_reader import ArchiveReader, ParquetReader, TarReader
from alexnet_torch.data.sources.file_listing import list_files
from alexnet_torch.data.sources.junk import PassedOver
from alexnet_torch.data.sources.names import Names
from alexnet_torch.data.sources.source import Source, SourceClass, SourceFiles, SourceSplit
from alexnet_torch.files import atomic_write, remembered_file

VERSION = 3
"""Raised when an index of the same archives changes."""

KEPT_SAMPLES = 10_000
"""Smaller sets are listed in a fraction of a second."""

READERS: dict[str, type[ArchiveReader]] = {"tar": TarReader, "parquet": ParquetReader}


def kept_source(root: Path, files: Sequence[Path], build: Callable[[SourceFiles], Source]) -> Source:
    """Returns the source that `build` makes of archives, from the user's cache folder if the archives did not change.

    Args:
        root: the folder or file that the archives' paths are relative to.
        files: all archives.
        build: makes the source, with readers that are ArchiveReaders, of the archives' sizes and times.
    """
    listed = list_files(root, files)
    digest = hashlib.sha256(f"{VERSION} {root.resolve()}".encode("utf-8", "surrogateescape"))
    digest.update(listed.paths.content)
    for numbers in (listed.paths.ends, listed.sizes, listed.times):
        digest.update(numbers.data)
    path = remembered_file("indexes", f"{digest.hexdigest()[:32]}.npz")
    if path is None:
        return build(listed)
    try:
        return _load(path, root, files, listed)
    except FileNotFoundError:
        pass
    except (OSError, EOFError, ValueError, KeyError, IndexError, zipfile.BadZipFile, zlib.error):
        pass  # damaged: it is written again
    source = build(listed)
    if sum(map(len, source.splits)) >= KEPT_SAMPLES:
        try:
            path.parent.mkdir(parents=True, exist_ok=True)
            _save(path, source, files)
        except OSError:
            pass  # the disk is full or read-only: the next start lists the archives again
    return source


def _save(path: Path, source: Source, files: Sequence[Path]) -> None:
    facts = {
        "form": source.form,
        "classes": [(each.identity, each.name) for each in source.classes],
        "splits": [split.name for split in source.splits],
        "passed_over": vars(source.passed_over),
        "notes": source.notes,
        "without_val": source.without_val,
    }
    arrays: dict[str, np.ndarray] = {}
    for split in source.splits:
        reader = split.reader
        assert isinstance(reader, ArchiveReader)
        facts["reader"] = next(name for name, kind in READERS.items() if isinstance(reader, kind))
        arrays |= {f"{split.name}.labels": split.labels, f"{split.name}.places": reader.places}
        arrays[f"{split.name}.files"] = np.array([files.index(file) for file in reader.files], np.int64)
        for name, names in (("keys", split.keys), ("names", reader.names)):
            arrays[f"{split.name}.{name}"] = np.frombuffer(names.content, np.uint8)
            arrays[f"{split.name}.{name}.ends"] = names.ends
    arrays["facts"] = np.array(json.dumps(facts))
    atomic_write(path, lambda file: np.savez(file, allow_pickle=False, **arrays))


def _load(path: Path, root: Path, files: Sequence[Path], listed: SourceFiles) -> Source:
    with np.load(path) as saved:
        facts = json.loads(str(saved["facts"]))

        def names(key: str) -> Names:
            return Names(saved[key].tobytes(), saved[f"{key}.ends"])

        splits = []
        for name in facts["splits"]:
            own = tuple(files[i] for i in saved[f"{name}.files"].tolist())
            reader = READERS[facts["reader"]](own, saved[f"{name}.places"], names(f"{name}.names"))
            splits.append(SourceSplit(name, names(f"{name}.keys"), saved[f"{name}.labels"], reader))
    classes = tuple(SourceClass(*each) for each in facts["classes"])
    passed_over = PassedOver(**facts["passed_over"])
    return Source(
        facts["form"],
        root,
        classes,
        tuple(splits),
        listed,
        passed_over,
        notes=tuple(facts["notes"]),
        without_val=facts["without_val"],
    )

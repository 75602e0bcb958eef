"""Checks the development kit of ILSVRC-2012 against the classes and labels that the package has."""

import hashlib
import io
import tarfile
import zlib
from pathlib import Path

import numpy as np

from alexnet_torch.data.sources.imagenet_classes import imagenet_classes, index_of_devkit_id, validation_labels
from alexnet_torch.errors import UserError

DEVKIT = "ILSVRC2012_devkit_t12.tar.gz"
MD5 = "fa75699e90414af021442c21a62c3abf"  # of the file at image-net.org
META, TRUTH = "data/meta.mat", "data/ILSVRC2012_validation_ground_truth.txt"


def check_devkit(file: Path) -> list[str]:
    """Compares a development kit with the package; returns warnings.

    Raises:
        UserError: it is damaged, or has other classes or labels.
    """
    try:
        content = file.read_bytes()
        with tarfile.open(fileobj=io.BytesIO(content), mode="r:gz") as archive:
            meta, truth = (_member(archive, name) for name in (META, TRUTH))
        wnids = _wnids(meta)
        ids = np.array([int(line) for line in truth.split()], np.int64)
    except OSError as error:
        raise _damaged(file, error.strerror or str(error)) from error
    except (tarfile.TarError, EOFError, zlib.error, ValueError, KeyError, TypeError, IndexError) as error:
        raise _damaged(file, str(error) or type(error).__name__) from error
    indices = index_of_devkit_id()
    for devkit_id in range(1, 1001):
        ours = imagenet_classes()[indices[devkit_id]].identity
        if wnids.get(devkit_id) != ours:
            raise UserError(
                f"{file}: its class {devkit_id} is {wnids.get(devkit_id)}, and ILSVRC-2012's is {ours}; "
                "download the file again, or move it elsewhere: it is not needed"
            )
    wrong = len(ids) != 50_000 or not ((ids >= 1) & (ids <= 1000)).all()
    if wrong or (different := np.flatnonzero(indices[ids] != validation_labels())).size:
        first = "" if wrong else f", first that of image {different[0] + 1}"
        raise UserError(
            f"{file}: its labels of the validation images are not ILSVRC-2012's{first}; "
            "download the file again, or move it elsewhere: it is not needed"
        )
    found = hashlib.md5(content, usedforsecurity=False).hexdigest()
    return [] if found == MD5 else [f"{file}: has the MD5 {found}, not the official {MD5}; its labels are right"]


def _member(archive: tarfile.TarFile, path: str) -> bytes:
    """Returns the content of the member whose path ends so."""
    for member in archive:
        if member.isreg() and f"/{member.name}".endswith(f"/{path}"):
            content = archive.extractfile(member)
            assert content is not None
            return content.read()
    raise ValueError(f"it has no {path}")


def _wnids(meta: bytes) -> dict[int, str]:
    """Returns the WordNet ID of each of the kit's IDs; those above 1000 are not classes but groups of them."""
    from scipy.io import loadmat  # takes a third of a second

    synsets = loadmat(io.BytesIO(meta), squeeze_me=True)["synsets"]
    return {int(each["ILSVRC2012_ID"]): str(each["WNID"]) for each in synsets}


def _damaged(file: Path, reason: str) -> UserError:
    return UserError(
        f"{file}: is truncated or damaged ({reason.splitlines()[0]}); download it again, or move it elsewhere: it is "
        "not needed"
    )

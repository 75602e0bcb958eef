"""Data sets are the same if their images are, and runs and prepared folders made before are still taken."""

import hashlib
import json
import os
import shutil
import unicodedata
from pathlib import Path

import numpy as np
import pytest

from alexnet_torch.data import decode
from alexnet_torch.data import prepare as preparation
from alexnet_torch.data.fingerprint import Fingerprint
from alexnet_torch.data.prepare import prepare
from alexnet_torch.data.prepared_images import PreparedImages
from alexnet_torch.errors import UserError
from alexnet_torch.training.checkpoints import require_same_run
from tests.support.folders import make_images


def build(root: Path, **options: object) -> PreparedImages:
    return prepare(root, 24, str(root.parent / "cache"), **options)  # type: ignore[arg-type]


@pytest.fixture
def root(tmp_path: Path) -> Path:
    return make_images(tmp_path / "images", classes=2, train=3, val=2)


def paths_in_order(root: Path) -> list[str]:
    return sorted(path.relative_to(root).as_posix() for path in (root / "train").rglob("*.png")) + sorted(
        path.relative_to(root).as_posix() for path in (root / "val").rglob("*.png")
    )


def former_listing(root: Path) -> str:
    """The lines of files.txt as commit 3608740 wrote them."""
    status = {path: (root / path).stat() for path in paths_in_order(root)}
    return "\n".join(f"{each.st_size}\t{each.st_mtime_ns}\t{json.dumps(path)}" for path, each in status.items())


def former_fingerprint(root: Path, skipped: tuple[str, ...] = ()) -> str:
    """The data set's digest as commit 3608740 computed it, and checkpoints have it."""
    digest = hashlib.sha256(b"24 ('class0', 'class1')")
    for path in paths_in_order(root):
        if path not in skipped:
            digest.update(f"{(root / path).stat().st_size} {path}\n".encode("utf-8", "surrogateescape"))
    return digest.hexdigest()


def make_former(root: Path) -> Path:
    """Makes a prepared folder as commit 3608740 left it."""
    build(root)
    (folder,) = (root.parent / "cache").glob("images-*")
    for name in ("samples.npz", "train.digests", "val.digests"):
        (folder / name).unlink()
    manifest = {
        "format": 2,
        "decode": decode.VERSION,
        "root": str(root),
        "side": 24,
        "classes": ["class0", "class1"],
        "files": {"train": 6, "val": 4},
        "skipped": [],
    }
    (folder / "manifest.json").write_text(json.dumps(manifest, indent=1))
    (folder / "files.txt").write_text(former_listing(root))
    return folder


def test_a_prepared_folder_made_before_is_taken_without_decoding(root: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    make_former(root)
    monkeypatch.setattr(preparation, "decode_chunks", lambda *_: pytest.fail("decoded again"))
    prepared = build(root)
    assert prepared.train.images is not None
    assert np.array_equal(prepared.train.images[0], decode.decode_file(root / "train/class0/000.png", 24))
    assert prepared.fingerprint == Fingerprint(None, former_fingerprint(root))


def test_a_prepared_folder_made_before_is_built_again_after_a_change(root: Path) -> None:
    folder = make_former(root)
    os.utime(root / "val/class1/001.png", (1, 1))
    assert build(root).fingerprint.content
    assert json.loads((folder / "manifest.json").read_text())["format"] == 3


def test_a_checkpoint_made_before_resumes(root: Path) -> None:
    prepared = build(root)
    current = {"data set": prepared.fingerprint.saved(), "classes": ["class0", "class1"]}
    require_same_run({**current, "data set": former_fingerprint(root)}, current)
    with pytest.raises(UserError, match="the run is of another data set than --data names"):
        require_same_run({**current, "data set": former_fingerprint(root, ("train/class0/000.png",))}, current)


def test_class_names_are_the_same_however_unicode_writes_them() -> None:
    composed, decomposed = ({"classes": [unicodedata.normalize(form, "café"), "thé"]} for form in ("NFC", "NFD"))
    assert composed != decomposed
    require_same_run(composed, decomposed)
    with pytest.raises(UserError, match="the run is of other classes than"):
        require_same_run(composed, {"classes": ["cafe", "thé"]})


def test_a_checkpoint_made_before_resumes_with_skipped_files(root: Path) -> None:
    (root / "train/class0/001.png").write_bytes(b"")
    prepared = build(root, skip_bad=True)
    assert prepared.fingerprint.files == former_fingerprint(root, ("train/class0/001.png",))


def test_a_run_resumes_with_a_prepared_folder_made_before_it(root: Path) -> None:
    saved = {"data set": build(root).fingerprint.saved()}
    make_former(root)
    require_same_run(saved, {"data set": build(root).fingerprint.saved()})


def test_other_bytes_of_the_same_size_are_another_data_set(root: Path) -> None:
    before = build(root).fingerprint
    file = root / "train/class1/000.png"
    content = bytearray(file.read_bytes())
    content[-5] ^= 1  # in the last chunk's checksum, which Pillow does not verify
    file.write_bytes(content)
    after = build(root).fingerprint
    assert before.files == after.files
    assert not before.same_as(after)


def test_names_do_not_matter_but_labels_and_order_do(root: Path) -> None:
    before = build(root).fingerprint
    for path in sorted((root / "train").rglob("*.png")):
        path.rename(path.with_name(f"picture {path.stem}.PNG"))
    renamed = build(root).fingerprint
    assert renamed.same_as(before)
    assert renamed.files != before.files
    shutil.move(root / "train/class0/picture 002.PNG", root / "train/class1/picture 002b.PNG")
    assert not build(root).fingerprint.same_as(before)
    shutil.rmtree(root.parent / "cache")
    assert not prepare(root, 25, str(root.parent / "cache")).fingerprint.same_as(before)


def test_with_and_without_a_map_it_is_the_same(root: Path) -> None:
    assert prepare(root, 24, "none").fingerprint == build(root).fingerprint

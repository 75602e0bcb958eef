"""Each fault of an archive has its own message of one line, which names the file, the cause and what to do."""

import gzip
import json
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

from alexnet_torch.data.sources.classes import imagenet_classes
from alexnet_torch.data.sources.parquet import open_parquet_set, parquet_files
from alexnet_torch.data.sources.source import Source
from alexnet_torch.data.sources.tar_sets import open_tar_set
from alexnet_torch.errors import UserError
from tests.support.image_sets import Sample, small_set, tar_of, write_official, write_parquet, write_shards

TRAIN, VAL = "ILSVRC2012_img_train.tar", "ILSVRC2012_img_val.tar"
SHARD = "imagenet1k-train-0000.tar"
Spoil = Callable[[Path], object]
Write = Callable[[Path, list[Sample]], Path]


def open_archives(root: Path) -> Source:
    return open_parquet_set(root) if parquet_files(root) else open_tar_set(root)


def shorten(name: str, keep: float) -> Spoil:
    def spoil(root: Path) -> None:
        content = (root / name).read_bytes()
        (root / name).write_bytes(content[: int(keep * len(content))])

    return spoil


def remove(name: str) -> Spoil:
    return lambda root: (root / name).unlink()


def put(name: str, *members: tuple[str, bytes]) -> Spoil:
    """Writes a tar of members."""
    return lambda root: (root / name).write_bytes(tar_of(members))


def after_tarfile(name: str) -> Spoil:
    """Keeps the members of a tar, and removes its end mark."""
    return lambda root: (root / name).write_bytes((root / name).read_bytes().rstrip(b"\0") + bytes(100))


def damage(name: str, at: int) -> Spoil:
    def spoil(root: Path) -> None:
        content = bytearray((root / name).read_bytes())
        content[at] ^= 0x55
        (root / name).write_bytes(bytes(content))

    return spoil


def compress(name: str) -> Spoil:
    return lambda root: (root / name).write_bytes(gzip.compress((root / name).read_bytes()))


OFFICIAL_FAULTS: dict[str, tuple[Spoil, str]] = {
    "half": (shorten(TRAIN, 0.5), f"{TRAIN}: is truncated: n.*.tar continues beyond its end; download"),
    "half of val": (shorten(VAL, 0.5), f"{VAL}: is truncated: "),
    "no end": (after_tarfile(VAL), f"{VAL}: is truncated: it has no end mark; download"),
    "empty": (shorten(VAL, 0), f"{VAL}: is damaged: it has no valid header"),
    "damaged header": (damage(VAL, 150), f"{VAL}: is damaged: it has no valid header"),
    "damaged inside": (damage(TRAIN, 512 + 150), rf"{TRAIN}: is damaged: .* \(in its member n\d+.tar\)"),
    "compressed": (compress(TRAIN), f"{TRAIN}: is compressed, so that single images cannot be read; decompress"),
    "other content": (put(VAL, ("a/b.txt", b"")), f"{VAL}: contains a/b.txt: neither webdataset's"),
    "no content": (put(VAL), f"{VAL}: contains none: neither"),
    "only text": (put(VAL, ("x_n01491361.txt", b"")), "no images in the val files"),
    "a file among classes": (
        put(TRAIN, ("n01491361.tar", tar_of([])), ("x.jpg", b"")),
        "contains x.jpg among the archives of classes",
    ),
    "image 50001": (put(VAL, ("ILSVRC2012_val_00050001.JPEG", b"x")), "has the validation images 1 to 50,000"),
    "wrong suffix": (put(VAL, ("ILSVRC2012_val_00000001_n01440764.JPEG", b"x")), "of n01751748, not of n0144"),
    "no class": (put(VAL, ("ILSVRC2012_val_00000001.JPEG", b"x"), ("1.JPEG", b"x")), "1.JPEG: its name tells no class"),
    "other classes": (put(VAL, ("ILSVRC2012_val_00000001.JPEG", b"x")), "only in val: n01751748; give both"),
    "twice": (put(VAL, *2 * [("ILSVRC2012_val_00000001.JPEG", b"x")]), "different classes"),
}


def sample(key: str, **members: bytes) -> list[tuple[str, bytes]]:
    return [(f"{key}.{kind}", content) for kind, content in members.items()]


SHARD_FAULTS: dict[str, tuple[Spoil, str]] = {
    "missing shard": (remove("imagenet1k-train-0001.tar"), "imagenet1k-train-0001.tar is missing; download"),
    "first missing": (remove(SHARD), "imagenet1k-train-0000.tar is missing; download"),
    "truncated": (shorten(SHARD, 0.6), f"{SHARD}: is truncated: "),
    "no label": (put(SHARD, *sample("a", cls=b"0", jpg=b"x"), *sample("b", jpg=b"x")), "sample b has no label"),
    "no image": (put(SHARD, *sample("a", cls=b"0", txt=b"x")), "sample a has no image, .* but only cls, txt"),
    "label is text": (put(SHARD, *sample("a", cls=b"dog", jpg=b"x")), "a.cls contains b'dog', not a class's number"),
    "negative": (put(SHARD, *sample("a", cls=b"-1", jpg=b"x")), "a.cls contains b'-1', not a class's number"),
    "broken json": (put(SHARD, *sample("a", json=b"{", jpg=b"x")), "a.json contains b'{', not a class's number"),
    "json without label": (put(SHARD, *sample("a", json=b"{}", jpg=b"x")), "a.json contains b'{}', not a class's"),
    "json of a list": (put(SHARD, *sample("a", json=b"[1]", jpg=b"x")), "a.json contains"),
    "long label": (put(SHARD, *sample("a", cls=bytes(2**20 + 1), jpg=b"x")), "not a class's number"),
    "twice": (put(SHARD, *sample("a", cls=b"0", jpg=b"x"), ("a.jpg", b"x")), "a.jpg twice; make the shard again"),
    "another form": (
        put(SHARD, ("n01440764.tar", b"")),
        "are of different kinds: archives of classes, webd.*; move one kind elsewhere",
    ),
}


def rewrite(change: Callable[[Any], Any], name: str = "train-00000-of-00002") -> Spoil:
    """Changes the table of a parquet file."""

    def spoil(root: Path) -> None:
        from pyarrow import parquet

        file = root / "data" / f"{name}.parquet"
        parquet.write_table(change(parquet.read_table(file)), file)

    return spoil


def with_labels(*values: int | None) -> Callable[[Any], Any]:
    import pyarrow as pa

    return lambda table: table.set_column(1, "label", pa.array((values * len(table))[: len(table)], pa.int64()))


def with_metadata(text: str) -> Callable[[Any], Any]:
    return lambda table: table.replace_schema_metadata({"huggingface": text})


OTHER_NAMES = '{"info": {"features": {"label": {"names": ["cat", "dog"]}}}}'
PARQUET_FAULTS: dict[str, tuple[Spoil, str]] = {
    "missing part": (remove("data/train-00001-of-00002.parquet"), "train-00001-of-00002.parquet is missing; download"),
    "truncated": (shorten("data/train-00000-of-00002.parquet", 0.7), r"train-00000.*: is damaged"),
    "empty": (shorten("data/validation-00001-of-00002.parquet", 0), r"validation-00001.*: is damaged"),
    "no label column": (rewrite(lambda table: table.drop_columns("label")), "has the columns image .*; Hugging Face's"),
    "no image column": (rewrite(lambda table: table.drop_columns("image")), "has the columns label"),
    "label of text": (rewrite(lambda t: t.set_column(1, "label", t["label"].cast("string"))), r"label \(string\)"),
    "label 1000": (rewrite(with_labels(1000)), "row 0 of row group 0 has the label 1000, not 0 to 999"),
    "label -2": (rewrite(with_labels(-2)), "has the label -2, not 0 to 999"),
    "label -1": (rewrite(with_labels(2, -1)), "row 1 of row group 0 has no label"),
    "no label": (rewrite(with_labels(2, None)), "row 1 of row group 0 has no label"),
    "other names": (rewrite(with_metadata(OTHER_NAMES)), "its classes' names are not those of .*parquet;"),
    "other metadata": (rewrite(with_metadata("{}")), "is damaged"),
    "broken metadata": (rewrite(with_metadata("{")), "is damaged"),
}


FAULTS: list[tuple[Write, Spoil, str]] = [
    *((write_official, *fault) for fault in OFFICIAL_FAULTS.values()),
    *((lambda root, samples: write_shards(root, samples, shards=3), *fault) for fault in SHARD_FAULTS.values()),
    *((write_parquet, *fault) for fault in PARQUET_FAULTS.values()),
]


@pytest.mark.parametrize(("write", "spoil", "message"), FAULTS, ids=[*OFFICIAL_FAULTS, *SHARD_FAULTS, *PARQUET_FAULTS])
def test_a_spoiled_archive_is_refused(write: Write, spoil: Spoil, message: str, tmp_path: Path) -> None:
    root = write(tmp_path / "set", small_set())
    open_archives(root)
    spoil(root)
    with pytest.raises(UserError, match=message) as error:
        open_archives(root)
    assert str(root) in str(error.value)
    assert "\n" not in str(error.value)


def test_labels_in_the_development_kits_order_are_found(tmp_path: Path) -> None:
    """The trap of ILSVRC-2012: two orders of its classes."""
    swapped = {2: 134, 134: 2, 517: 517}
    right, wrong = small_set(), [replace(each, label=swapped[each.label]) for each in small_set()]
    write_shards(tmp_path, [r if r.split == "train" else w for r, w in zip(right, wrong, strict=True)])
    with pytest.raises(UserError, match="has the label 2, but other images with that label are of n01484850"):
        open_tar_set(tmp_path)


def test_damage_to_an_image_is_no_damage_to_the_archive(tmp_path: Path) -> None:
    root = write_official(tmp_path, small_set())
    damage(TRAIN, 1100)(root)
    assert len(open_tar_set(root).split("train")) == 9


def test_a_shard_set_without_wnids_has_numbers(tmp_path: Path) -> None:
    for split in ("train", "val"):
        members = [member for k in (0, 2, 10) for member in sample(f"{split}{k}", cls=b"%d" % k, png=b"x")]
        (tmp_path / f"{split}.tar").write_bytes(tar_of(members))
    source = open_tar_set(tmp_path)
    assert source.identities == ("0", "2", "10")
    assert source.form == "webdataset shards with classes by number"


def test_a_file_of_an_official_name_and_another_size_gives_a_warning(tmp_path: Path) -> None:
    notes = open_tar_set(write_official(tmp_path, small_set())).notes
    assert [note.split(": ")[0] for note in notes] == [str(tmp_path / TRAIN), str(tmp_path / VAL)]
    assert "image-net.org's file 147,897,477,120" in notes[0]


def test_names_of_others_parquet_sets(tmp_path: Path) -> None:
    root = write_parquet(tmp_path, [replace(s, name=f"{i}.JPEG") for i, s in enumerate(small_set())])
    assert open_parquet_set(root).classes[0] == imagenet_classes()[2]  # by the names in the metadata
    names = [f"sort {k}" for k in range(1000)]
    text = json.dumps({"info": {"features": {"label": {"names": names}}}})
    for file in (root / "data").iterdir():
        rewrite(with_metadata(text), file.stem)(root)
    assert open_parquet_set(root).identities == ("sort 134", "sort 2", "sort 517")


def info(**splits: Any) -> bytes:
    return json.dumps({"splits": splits}).encode()


NAMES = [f"imagenet1k-train-{i:04}.tar" for i in range(2)]
INFO_FAULTS = {
    info(train={"filenames": [*NAMES, "imagenet1k-train-0002.tar"]}): "names imagenet1k-train-0002.tar, missing here",
    info(train={"filenames": NAMES, "num_samples": 10}): "_info.json: names 10 samples to train, not 9",
    info(validation={"num_samples": 7}): "_info.json: names 7 samples to val, not 6",
    b"[]": "_info.json: is damaged",
    b"{": "_info.json: is damaged",
}


@pytest.mark.parametrize("content", INFO_FAULTS)
def test_shards_fit_their_description(content: bytes, tmp_path: Path) -> None:
    root = write_shards(tmp_path, small_set())
    (root / "_info.json").write_bytes(info(train={"filenames": NAMES, "num_samples": 9}, validation={"num_samples": 6}))
    assert len(open_tar_set(root).split("train")) == 9
    (root / "_info.json").write_bytes(content)
    with pytest.raises(UserError, match=INFO_FAULTS[content]):
        open_tar_set(root)


def test_archives_of_no_split_are_skipped_and_years_are_no_shard_numbers(tmp_path: Path) -> None:
    root = write_official(tmp_path, small_set())
    (root / VAL).rename(root / "val2012.tar")
    (root / "ILSVRC2012_img_test.tar").write_bytes(b"")
    assert "1 of no split (ILSVRC2012_img_test.tar)" in open_tar_set(root).describe()


@pytest.mark.parametrize("write", [write_official, write_shards])
def test_an_archive_alone_is_a_test_set(write: Write, tmp_path: Path) -> None:
    (file,) = (
        path
        for path in write(tmp_path, small_set()).iterdir()
        if path.name.endswith(("val.tar", "validation-0001.tar"))
    )
    (split,) = open_tar_set(file).splits
    assert (split.name, open_tar_set(file).identities[0]) == ("val", "n01484850")
    assert split.reader.location(0).startswith(f"{file}: ILSVRC2012_val_")

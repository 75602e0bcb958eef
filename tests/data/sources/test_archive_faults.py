"""Each fault of an archive has its own message of one line, which names the file, the cause and what to do."""

import gzip
import io
import json
import os
import tarfile
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

from alexnet_torch.data.sources.classes import imagenet_classes
from alexnet_torch.data.sources.parquet import open_parquet_set, parquet_files
from alexnet_torch.data.sources.source import Source
from alexnet_torch.data.sources.tar_sets import list_tar, open_tar_set
from alexnet_torch.errors import UserError
from tests.support.image_sets import (
    Sample,
    add_member,
    small_set,
    tar_of,
    write_official,
    write_parquet,
    write_shards,
)

TRAIN, VAL = "ILSVRC2012_img_train.tar", "ILSVRC2012_img_val.tar"
SHARD = "imagenet1k-train-0000.tar"
Spoil = Callable[[Path], object]
Write = Callable[[Path, list[Sample]], Path]


def open_archives(root: Path) -> Source:
    return open_parquet_set(root) if parquet_files(root) else open_tar_set(root)


def change(name: str, changed: Callable[[bytes], bytes]) -> Spoil:
    return lambda root: (root / name).write_bytes(changed((root / name).read_bytes()))


def shorten(name: str, keep: float) -> Spoil:
    return change(name, lambda content: content[: int(keep * len(content))])


def damage(name: str, at: int) -> Spoil:
    return change(name, lambda content: content[:at] + bytes([content[at] ^ 0x55]) + content[at + 1 :])


def remove(name: str) -> Spoil:
    return lambda root: (root / name).unlink()


def put(name: str, *members: tuple[str, bytes]) -> Spoil:
    """Writes a tar of members."""
    return lambda root: (root / name).write_bytes(tar_of(members))


def put_special(**fields: object) -> Spoil:
    """Writes a tar for validation whose last member has these fields."""
    content, info = io.BytesIO(), tarfile.TarInfo("b.jpg")
    with tarfile.open(fileobj=content, mode="w") as archive:
        add_member(archive, "ILSVRC2012_val_00000001.JPEG", b"x")
        for name, value in fields.items():
            setattr(info, name, value)
        archive.addfile(info)
    return lambda root: (root / VAL).write_bytes(content.getvalue())


IMAGE = "ILSVRC2012_val_00000001.JPEG"
NO_LABEL = r"has no class's number in .cls or .json; make the shard again"
OFFICIAL_FAULTS: dict[str, tuple[Spoil, str]] = {
    "half": (shorten(TRAIN, 0.5), rf"{TRAIN}: is damaged \(n.*.tar continues beyond its end\); download"),
    "no end": (change(VAL, lambda c: c.rstrip(b"\0") + bytes(100)), rf"{VAL}: is damaged \(it has no end mark\); down"),
    "empty": (shorten(VAL, 0), f"{VAL}: is damaged .*download"),
    "damaged header": (damage(VAL, 150), f"{VAL}: is damaged .*download"),
    "damaged inside": (damage(TRAIN, 512 + 150), rf"{TRAIN}: n\d+.tar: is damaged .*download"),
    "two archives": (change(VAL, lambda c: c + tar_of([("b", b"y")])), f"{VAL}: is damaged .no valid header at byte"),
    "no tar": (change(VAL, lambda _: b"\xff\xd8\xff\xe0" * 1000), f"{VAL}: is damaged"),
    "compressed": (change(TRAIN, gzip.compress), f"{TRAIN}: is compressed: single images cannot be read; decompress"),
    "bzip2": (change(TRAIN, lambda _: b"BZh91AY&SY"), "is compressed"),
    "symbolic link": (put_special(type=tarfile.SYMTYPE, linkname=IMAGE), "b.jpg is neither a file nor a folder; pack"),
    "hard link": (put_special(type=tarfile.LNKTYPE, linkname=IMAGE), "b.jpg is neither a file nor a folder; pack"),
    "device": (put_special(type=tarfile.CHRTYPE), "b.jpg is neither a file nor a folder"),
    "other content": (put(VAL, ("a/b.txt", b"")), f"{VAL}: contains a/b.txt: neither webdataset's"),
    "no content": (put(VAL), f"{VAL}: contains none: neither"),
    "only text": (put(VAL, ("x_n01491361.txt", b"")), "no images in the val files"),
    "image 50001": (put(VAL, ("ILSVRC2012_val_00050001.JPEG", b"x")), "50001.JPEG: its name tells no class"),
    "wrong suffix": (put(VAL, ("ILSVRC2012_val_00000001_n01440764.JPEG", b"x")), "tells no class .*, or a wrong one"),
    "no class": (put(VAL, (IMAGE, b"x"), ("1.JPEG", b"x")), "1.JPEG: its name tells no class"),
    "other classes": (put(VAL, (IMAGE, b"x")), "only in val: n01751748; give both"),
}


def sample(key: str, **members: bytes) -> list[tuple[str, bytes]]:
    return [(f"{key}.{kind}", content) for kind, content in members.items()]


SHARD_FAULTS: dict[str, tuple[Spoil, str]] = {
    "missing shard": (
        remove("imagenet1k-train-0001.tar"),
        "1 numbered .* the first imagenet1k-train-0001.tar;",
    ),
    "first missing": (remove(SHARD), "missing, the first imagenet1k-train-0000.tar; download"),
    "truncated": (shorten(SHARD, 0.6), f"{SHARD}: is damaged"),
    "no label": (put(SHARD, *sample("a", cls=b"0", jpg=b"x"), *sample("b", jpg=b"x")), r"b.{jpg} " + NO_LABEL),
    "no image": (put(SHARD, *sample("a", cls=b"0", txt=b"x")), r"a.{cls,txt} has no image, .jpg or .png; make"),
    **{
        f"label {content[:9]!r}": (put(SHARD, *sample("a", **{kind: content}, jpg=b"x")), NO_LABEL)
        for kind, contents in {"cls": (b"dog", b"-1", bytes(2**20 + 1)), "json": (b"{", b"[1]")}.items()
        for content in contents
    },
    "twice": (put(SHARD, *sample("a", cls=b"0", jpg=b"x"), ("a.jpg", b"x")), "a.jpg twice; make the shard again"),
    "another form": (
        put(SHARD, ("n01440764.tar", b"")),
        "are of different kinds: archives of classes, webd.*; move one kind elsewhere",
    ),
}


def rewrite(changed: Callable[[Any], Any], name: str = "train-00000-of-00002") -> Spoil:
    """Changes the table of a parquet file."""

    def spoil(root: Path) -> None:
        from pyarrow import parquet

        file = root / "data" / f"{name}.parquet"
        parquet.write_table(changed(parquet.read_table(file)), file)

    return spoil


def with_label(value: int | None) -> Callable[[Any], Any]:
    import pyarrow as pa

    return lambda table: table.set_column(1, "label", pa.array([2, *[value] * (len(table) - 1)], pa.int64()))


def with_metadata(text: str) -> Callable[[Any], Any]:
    return lambda table: table.replace_schema_metadata({"huggingface": text})


OTHER_NAMES = '{"info": {"features": {"label": {"names": ["cat", "dog"]}}}}'
PARQUET_FAULTS: dict[str, tuple[Spoil, str]] = {
    "missing part": (remove("data/train-00001-of-00002.parquet"), "the first train-00001-of-00002.parquet; download"),
    "truncated": (shorten("data/train-00000-of-00002.parquet", 0.7), r"train-00000.*: is damaged"),
    "empty": (shorten("data/validation-00001-of-00002.parquet", 0), r"validation-00001.*: is damaged"),
    "no label column": (rewrite(lambda t: t.drop_columns("label")), "has the columns .'image.*to Hugging Face's"),
    "no image column": (rewrite(lambda t: t.drop_columns("image")), "has the columns .'label"),
    "label of text": (rewrite(lambda t: t.set_column(1, "label", t["label"].cast("string"))), "'label': 'string'"),
    **{
        f"label {value}": (rewrite(with_label(value)), f"row 1 of row group 0 has the label {value}, which is no class")
        for value in (1000, -1, None)
    },
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


def test_what_is_no_archive_of_images_is_skipped_and_years_are_no_shard_numbers(tmp_path: Path) -> None:
    root = write_official(tmp_path, small_set())
    (root / VAL).rename(root / "val2012.tar")
    (root / "ILSVRC2012_img_test.tar").write_bytes(b"")
    with tarfile.open(root / TRAIN, "a") as archive:
        add_member(archive, "x.jpg", b"")
    line = open_tar_set(root).describe()
    assert "1 no class's archive (x.jpg), 1 of no split (ILSVRC2012_img_test.tar)" in line


def test_a_shard_set_without_wnids_has_numbers(tmp_path: Path) -> None:
    for split in ("train", "val"):
        members = [member for k in (0, 2, 10) for member in sample(f"{split}{k}", cls=b"%d" % k, png=b"x")]
        (tmp_path / f"{split}.tar").write_bytes(tar_of(members))
    source = open_tar_set(tmp_path)
    assert source.identities == ("0", "2", "10")
    assert source.form == "webdataset shards with classes by number"


def test_names_of_others_parquet_sets(tmp_path: Path) -> None:
    root = write_parquet(tmp_path, [replace(s, name=f"{i}.JPEG") for i, s in enumerate(small_set())])
    assert open_parquet_set(root).classes[0] == imagenet_classes()[2]  # by the names in the metadata
    text = json.dumps({"info": {"features": {"label": {"names": [f"sort {k}" for k in range(1000)]}}}})
    for file in (root / "data").iterdir():
        rewrite(with_metadata(text), file.stem)(root)
    assert open_parquet_set(root).identities == ("sort 134", "sort 2", "sort 517")


@pytest.mark.parametrize("told", ['{"train": {"num_samples": 10}}', '{"validation": {"num_samples": 7}}', "["])
def test_shards_fit_their_description(told: str, tmp_path: Path) -> None:
    root = write_shards(tmp_path, small_set())
    (root / "_info.json").write_text('{"splits": {"train": {"num_samples": 9}, "validation": {"num_samples": 6}}}')
    assert len(open_tar_set(root).split("train")) == 9
    (root / "_info.json").write_text(f'{{"splits": {told}}}')
    with pytest.raises(UserError, match=r"_info.json: (names (10|7) samples to .*, not [96]; download|is damaged)"):
        open_tar_set(root)


@pytest.mark.parametrize("write", [write_official, write_shards])
def test_an_archive_alone_is_a_test_set(write: Write, tmp_path: Path) -> None:
    file = next(path for path in sorted(write(tmp_path, small_set()).iterdir()) if "val" in path.name)
    (split,) = open_tar_set(file).splits
    assert (split.name, open_tar_set(file).identities[0]) == ("val", "n01484850")
    assert split.reader.location(0).startswith(f"{file}: ILSVRC2012_val_")


NAMES = ["a.jpg", "./b.jpg", "folder/c.jpg", "x" * 150 + "/" + "y" * 120 + ".jpg", "ä/Ж.jpg", "caf\udce9.jpg"]


@pytest.mark.parametrize("form", [tarfile.GNU_FORMAT, tarfile.PAX_FORMAT])
def test_members_are_where_tarfile_reads_them_in_an_archive_inside_an_archive_too(form: int, tmp_path: Path) -> None:
    file, contents = tmp_path / "x.tar", {name: os.urandom(i * 300) for i, name in enumerate(NAMES)}
    with tarfile.open(file, "w", format=form) as archive:
        for name, content in contents.items():
            add_member(archive, name, content)
    outer = tmp_path / "outer.tar"
    outer.write_bytes(tar_of([("before.txt", b"x" * 700), ("inner.tar", file.read_bytes())]))
    inner = {member.name: member for member in list_tar(outer)}["inner.tar"]
    for whole, members in ((file.read_bytes(), list_tar(file)), (outer.read_bytes(), list_tar(outer, inner))):
        assert {each.name: whole[each.offset_data :][: each.size] for each in members} == contents


def test_a_file_of_an_official_name_and_another_size_gives_a_warning(tmp_path: Path) -> None:
    notes = open_tar_set(write_official(tmp_path, small_set())).notes
    assert [note.split(": ")[0] for note in notes] == [str(tmp_path / TRAIN), str(tmp_path / VAL)]
    assert "image-net.org's file 147,897,477,120" in notes[0]

"""Members of tars are where tarfile reads them, in every format of headers."""

import io
import os
import tarfile
from pathlib import Path

import pytest

from alexnet_torch.data.sources.tar_sets import list_tar
from alexnet_torch.errors import UserError
from tests.support.image_sets import add_member, tar_of

NAMES = ["a.jpg", "./b.jpg", "folder/c.jpg", "x" * 150 + "/" + "y" * 120 + ".jpg", "ä/Ж.jpg", "caf\udce9.jpg"]


def as_tarfile_reads(file: Path) -> dict[str, bytes]:
    """Returns the content of each file in a tar."""
    with tarfile.open(file) as archive:
        members = [member for member in archive if member.isreg()]
        return {member.name: opened.read() for member in members if (opened := archive.extractfile(member))}


def as_listed(file: Path) -> dict[str, bytes]:
    """Returns the bytes at each member's place."""
    content = file.read_bytes()
    return {member.name: content[member.offset_data : member.offset_data + member.size] for member in list_tar(file)}


@pytest.mark.parametrize("form", [tarfile.GNU_FORMAT, tarfile.PAX_FORMAT])
def test_long_and_foreign_names(form: int, tmp_path: Path) -> None:
    file = tmp_path / "x.tar"
    with tarfile.open(file, "w", format=form) as archive:
        for i, name in enumerate(NAMES):
            add_member(archive, name, os.urandom(i * 300))
    assert list(as_listed(file)) == NAMES
    assert as_listed(file) == as_tarfile_reads(file)


def test_an_archive_inside_an_archive(tmp_path: Path) -> None:
    inner = tar_of([("a.jpg", b"first"), ("b.jpg", b"second")])
    (tmp_path / "x.tar").write_bytes(tar_of([("before.txt", b"x" * 700), ("inner.tar", inner)]))
    outer = {member.name: member for member in list_tar(tmp_path / "x.tar")}["inner.tar"]
    content = (tmp_path / "x.tar").read_bytes()
    members = list(list_tar(tmp_path / "x.tar", outer.offset_data, outer.size))
    assert [content[each.offset_data :][: each.size] for each in members] == [b"first", b"second"]


def archive_with(**fields: object) -> bytes:
    """Returns a tar whose last member has these fields."""
    content = io.BytesIO()
    with tarfile.open(fileobj=content, mode="w") as archive:
        add_member(archive, "a.jpg", b"x")
        info = tarfile.TarInfo("b.jpg")
        for name, value in fields.items():
            setattr(info, name, value)
        archive.addfile(info)
    return content.getvalue()


FAULTS = {
    "symbolic link": (
        archive_with(type=tarfile.SYMTYPE, linkname="a.jpg"),
        "b.jpg is neither a file nor a folder; pack",
    ),
    "hard link": (archive_with(type=tarfile.LNKTYPE, linkname="a.jpg"), "b.jpg is neither a file nor a folder; pack"),
    "device": (archive_with(type=tarfile.CHRTYPE), "b.jpg is neither a file nor a folder"),
    "two archives": (
        tar_of([("a", b"x")]) + tar_of([("b", b"y")]),
        r"no valid header \(at byte 1024",
    ),
    "no tar": (b"\xff\xd8\xff\xe0" * 1000, "is damaged: it has no valid header"),
    "bzip2": (b"BZh91AY&SY", "is compressed"),
}


@pytest.mark.parametrize("fault", FAULTS)
def test_what_cannot_be_read_is_refused(fault: str, tmp_path: Path) -> None:
    content, message = FAULTS[fault]
    (tmp_path / "x.tar").write_bytes(content)
    with pytest.raises(UserError, match=message):
        list(list_tar(tmp_path / "x.tar"))

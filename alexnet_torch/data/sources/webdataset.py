"""Shards of webdataset: tars in which consecutive members with the same key, as x.jpg and x.cls, are one sample."""

import contextlib
import json
import os
import re
from collections.abc import Iterator
from dataclasses import dataclass, field
from pathlib import Path

from alexnet_torch.data.sources.junk import PassedOver, junk_path_reason
from alexnet_torch.data.sources.sample_table import SampleTable
from alexnet_torch.data.sources.tar_members import TarMember, list_tar
from alexnet_torch.errors import UserError

IMAGES = ("jpg", "jpeg", "png", "webp")
LONGEST_LABEL = 2**20  # bytes of a .cls or .json
KEY_AND_KIND = re.compile(r"((?:.*/)?[^./]+)\.([^/]*)")  # webdataset's rule: the kind starts at the name's first dot


@dataclass
class ShardSample:
    """The members of one sample."""

    key: str
    members: dict[str, TarMember] = field(default_factory=dict)  # by kind: "jpg", "cls"

    @property
    def image_kind(self) -> str | None:
        """The kind of the image's member; None if it has none."""
        return next((kind for kind in IMAGES if kind in self.members), None)


def list_shard(file: Path, passed_over: PassedOver) -> Iterator[ShardSample]:
    """Yields the samples of a shard, those without an image too.

    Raises:
        UserError: the archive is damaged, or a sample has two members of a kind.
    """
    sample = ShardSample("")
    for member in list_tar(file):
        match = KEY_AND_KIND.fullmatch(member.name)
        if (reason := junk_path_reason(member.name)) or not match:
            passed_over.add(reason or "without a kind", member.name)
            continue
        key, kind = match[1], match[2].lower()
        if key != sample.key:
            if sample.members:
                yield sample
            sample = ShardSample(key)
        if kind in sample.members:
            raise UserError(f"{file}: contains {member.name} twice; make the shard again")
        sample.members[kind] = member
    if sample.members:
        yield sample


def read_label(file: Path, descriptor: int, sample: ShardSample) -> int:
    """Returns the label of a sample: the number in its .cls, or "label" (or "cls") of its .json.

    Raises:
        UserError: it has none, or that is no whole number from 0 on.
    """
    kind = next((kind for kind in ("cls", "json") if kind in sample.members), None)
    if kind is None:
        raise UserError(
            f"{file}: the sample {sample.key} has no label, as a member .cls or .json; make the shard again"
        )
    member = sample.members[kind]
    if member.size > LONGEST_LABEL:
        raise UserError(f"{file}: {member.name} has {member.size:,} bytes: too many for a label; make the shard again")
    content = os.pread(descriptor, member.size, member.offset)
    value: object = None
    if kind == "cls":
        text = content.strip()
        value = int(text) if text.isdigit() and len(text) < 19 else None  # int64
    else:
        with contextlib.suppress(ValueError, KeyError, TypeError, RecursionError):  # then it is None
            fields = json.loads(content)
            value = fields["label"] if "label" in fields else fields["cls"]
    if not isinstance(value, int) or isinstance(value, bool) or not 0 <= value < 10**18:
        raise UserError(f"{file}: {member.name} contains {content[:40]!r}, not a class's number; make the shard again")
    return value


def add_shards(table: SampleTable, passed_over: PassedOver) -> None:
    """Adds the samples of shards; the identities of their classes are the labels' numbers.

    Raises:
        UserError: a shard is damaged, or a sample has no image or no label.
    """
    for number, file in enumerate(table.files):
        descriptor = os.open(file, os.O_RDONLY)
        try:
            for sample in list_shard(file, passed_over):
                if (kind := sample.image_kind) is None:
                    others = ", ".join(sample.members)
                    raise UserError(
                        f"{file}: the sample {sample.key} has no image, as a member .jpg or .png, but only {others}; "
                        "make the shard again"
                    )
                image = sample.members[kind]
                label, name = read_label(file, descriptor, sample), f"{sample.key.rpartition('/')[2]}.{kind}"
                table.add(str(label), name, image.name, (number, image.offset, image.size))
        finally:
            os.close(descriptor)

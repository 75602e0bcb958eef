"""Writes image files into the archives in which people have ImageNet, to compare reading them."""

import io
import itertools
import tarfile
from collections.abc import Iterable, Sequence
from pathlib import Path

from alexnet_torch.data.sources.classes import imagenet_classes, validation_labels

Image = tuple[str, str, bytes]  # split, file name as ILSVRC-2012 has it, content


def repeated_images(files: Sequence[Path], number: int) -> list[Image]:
    """Returns the contents of files, again and again, as training images and a tenth as many for validation.

    They are under ILSVRC-2012's names, of its first ten classes.
    """
    contents = itertools.cycle([file.read_bytes() for file in files])
    labels = validation_labels()
    numbers = [i + 1 for i in range(len(labels)) if labels[i] < 10][: number // 10]
    train = [f"{imagenet_classes()[i % 10].identity}_{i}.JPEG" for i in range(number)]
    names = [*(("train", name) for name in train), *(("val", f"ILSVRC2012_val_{i:08}.JPEG") for i in numbers)]
    return [(split, name, content) for (split, name), content in zip(names, contents, strict=False)]


def label_of(image: Image) -> int:
    """Returns the standard index of an image's class."""
    split, name, _ = image
    if split == "train":
        return [each.identity for each in imagenet_classes()[:10]].index(name[:9])
    return int(validation_labels()[int(name[15:23]) - 1])


def write_folders(root: Path, images: Iterable[Image]) -> Path:
    """Writes train/<wnid>/* and val/<wnid>/*."""
    for image in images:
        file = root / image[0] / imagenet_classes()[label_of(image)].identity / image[1]
        file.parent.mkdir(parents=True, exist_ok=True)
        file.write_bytes(image[2])
    return root


def write_official(root: Path, images: Sequence[Image]) -> Path:
    """Writes the tar of one tar for each class, and the flat tar."""
    root.mkdir()
    train = [image for image in images if image[0] == "train"]
    wnids = sorted({name[:9] for _, name, _ in train})
    classes = [(wnid, [(name, content) for _, name, content in train if name.startswith(wnid)]) for wnid in wnids]
    write_tar(root / "ILSVRC2012_img_train.tar", [(f"{wnid}.tar", tar_of(members)) for wnid, members in classes])
    write_tar(root / "ILSVRC2012_img_val.tar", [image[1:] for image in images if image[0] == "val"])
    return root


def write_shards(root: Path, images: Sequence[Image]) -> Path:
    """Writes webdataset shards of 200 images, whose classes are mixed."""
    root.mkdir()
    for split in ("train", "val"):
        mixed = sorted((image for image in images if image[0] == split), key=lambda image: image[1][::-1])
        for number, first in enumerate(range(0, len(mixed), 200)):
            members = []
            for image in mixed[first : first + 200]:
                key = image[1].removesuffix(".JPEG")
                members += [(f"{key}.jpg", image[2]), (f"{key}.cls", str(label_of(image)).encode())]
            write_tar(root / f"imagenet1k-{split}-{number:04}.tar", members)
    return root


def write_parquet(root: Path, images: Sequence[Image]) -> Path:
    """Writes Hugging Face's files, of 500 mixed images in row groups of 100."""
    import pyarrow as pa
    from pyarrow import parquet

    (root / "data").mkdir(parents=True)
    image_type = pa.struct([("bytes", pa.binary()), ("path", pa.string())])
    schema = pa.schema([("image", image_type), ("label", pa.int64())])
    for split, name in (("train", "train"), ("val", "validation")):
        mixed = sorted((image for image in images if image[0] == split), key=lambda image: image[1][::-1])
        starts = range(0, len(mixed), 500)
        for number, first in enumerate(starts):
            part = mixed[first : first + 500]
            rows = [{"image": {"bytes": each[2], "path": each[1]}, "label": label_of(each)} for each in part]
            file = root / "data" / f"{name}-{number:05}-of-{len(starts):05}.parquet"
            parquet.write_table(pa.Table.from_pylist(rows, schema), file, row_group_size=100)
    return root


def tar_of(members: Iterable[tuple[str, bytes]]) -> bytes:
    """Returns a tar of files."""
    content = io.BytesIO()
    with tarfile.open(fileobj=content, mode="w") as archive:
        for name, member in members:
            info = tarfile.TarInfo(name)
            info.size = len(member)
            archive.addfile(info, io.BytesIO(member))
    return content.getvalue()


def write_tar(file: Path, members: Iterable[tuple[str, bytes]]) -> None:
    """Writes a tar of files."""
    file.write_bytes(tar_of(members))

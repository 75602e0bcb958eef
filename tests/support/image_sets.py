"""One small set of ImageNet's images, and writers of the layouts in which people have it."""

import io
import json
import tarfile
import zipfile
from collections.abc import Iterable
from dataclasses import dataclass
from pathlib import Path

import numpy as np
from PIL import Image

from alexnet_torch.data.sources.classes import imagenet_classes, validation_labels

STANDARD_INDICES = (2, 134, 517)  # great white shark; crane, the bird; crane, the machine


@dataclass(frozen=True)
class Sample:
    """An image of the set."""

    split: str  # "train" or "val"
    label: int  # standard index of its class
    name: str  # file name as ILSVRC-2012 has it
    content: bytes  # of the JPEG

    @property
    def wnid(self) -> str:
        return imagenet_classes()[self.label].identity

    @property
    def key(self) -> str:
        return f"{self.split}/{self.wnid}/{self.name}"

    @property
    def suffixed(self) -> str:  # as Hugging Face names it
        return self.name.replace(".JPEG", f"_{self.wnid}.JPEG")


def small_set(train: int = 3, val: int = 2, indices: Iterable[int] = STANDARD_INDICES) -> list[Sample]:
    """Returns samples of three classes in the order of ImageFolder: per class, images for training and validation."""
    random, samples = np.random.default_rng(0), []
    for split, count in (("train", train), ("val", val)):
        for label in indices:
            wnid = imagenet_classes()[label].identity
            numbers = np.flatnonzero(validation_labels() == label)[:count] + 1
            for i in range(count):
                name = f"{wnid}_{i + 8}.JPEG" if split == "train" else f"ILSVRC2012_val_{numbers[i]:08}.JPEG"
                samples.append(Sample(split, label, name, jpeg(random, label)))
    return sorted(samples, key=lambda sample: (sample.split, sample.label, sample.name))


def jpeg(random: np.random.Generator, label: int) -> bytes:
    """Returns a JPEG of noise around a colour of the label."""
    colour = np.array([label % 3, label % 5, label % 7]) * 30
    pixels = (random.integers(0, 60, (36, 44, 3)) + colour).astype(np.uint8)
    content = io.BytesIO()
    Image.fromarray(pixels).save(content, "JPEG", quality=90)
    return content.getvalue()


def add_member(archive: tarfile.TarFile, name: str, content: bytes) -> None:
    """Adds a file to a tar."""
    info = tarfile.TarInfo(name)
    info.size = len(content)
    archive.addfile(info, io.BytesIO(content))


def tar_of(members: Iterable[tuple[str, bytes]]) -> bytes:
    """Returns a tar of files."""
    content = io.BytesIO()
    with tarfile.open(fileobj=content, mode="w") as archive:
        for name, member in members:
            add_member(archive, name, member)
    return content.getvalue()


def of_split(samples: Iterable[Sample], split: str) -> list[Sample]:
    """Returns the samples of a split, not in ImageFolder's order."""
    return sorted((each for each in samples if each.split == split), key=lambda each: each.content)


def write_image_folder(root: Path, samples: Iterable[Sample]) -> Path:
    """Writes train/<wnid>/* and val/<wnid>/*."""
    return write_files(root, ((each.key, each.content) for each in samples))


def write_official(root: Path, samples: list[Sample], suffix: bool = False) -> Path:
    """Writes the official tar of tars and flat tar; with the suffix _<wnid> in the latter, as Hugging Face has it."""
    root.mkdir(parents=True, exist_ok=True)
    train, val = of_split(samples, "train"), of_split(samples, "val")
    wnids = sorted({each.wnid for each in train}, reverse=True)
    classes = [(f"{wnid}.tar", tar_of((e.name, e.content) for e in train if e.wnid == wnid)) for wnid in wnids]
    (root / "ILSVRC2012_img_train.tar").write_bytes(tar_of(classes))
    names = [each.suffixed if suffix else each.name for each in val]
    file = "val_images.tar" if suffix else "ILSVRC2012_img_val.tar"
    (root / file).write_bytes(tar_of(zip(names, (each.content for each in val), strict=True)))
    return root


def write_shards(root: Path, samples: list[Sample], kind: str = "cls", shards: int = 2) -> Path:
    """Writes webdataset shards as timm has them, with labels in .cls or .json."""
    root.mkdir(parents=True, exist_ok=True)
    for split, name in (("train", "train"), ("val", "validation")):
        for number in range(shards):
            members = []
            for each in of_split(samples, split)[number::shards]:
                key = each.name.removesuffix(".JPEG")
                label = str(each.label) if kind == "cls" else json.dumps({"label": each.label, "filename": each.name})
                members += [(f"{key}.{kind}", label.encode()), (f"{key}.jpg", each.content)]
            (root / f"imagenet1k-{name}-{number:04}.tar").write_bytes(tar_of(members))
    return root


def write_parquet(root: Path, samples: list[Sample], files: int = 2, group: int = 2) -> Path:
    """Writes Hugging Face's imagenet-1k: all names in the metadata, labels by standard index, a test split without."""
    import pyarrow as pa
    from pyarrow import parquet

    (root / "data").mkdir(parents=True, exist_ok=True)
    label = {"names": [each.name for each in imagenet_classes()], "_type": "ClassLabel"}
    metadata = {"huggingface": json.dumps({"info": {"features": {"image": {"_type": "Image"}, "label": label}}})}
    image = pa.struct([("bytes", pa.binary()), ("path", pa.string())])
    schema = pa.schema([("image", image), ("label", pa.int64())], metadata)
    for split, name in (("train", "train"), ("val", "validation"), ("val", "test")):
        for number in range(files):
            chosen = of_split(samples, split)[number::files]
            images = [{"bytes": each.content, "path": each.suffixed} for each in chosen]
            labels = [-1 if name == "test" else each.label for each in chosen]
            file = root / "data" / f"{name}-{number:05}-of-{files:05}.parquet"
            table = pa.Table.from_pydict({"image": images, "label": labels}, schema)
            parquet.write_table(table, file, row_group_size=group)
    return root


def write_files(root: Path, files: Iterable[tuple[str, bytes]]) -> Path:
    """Writes files, with their folders."""
    for path, content in files:
        (root / path).parent.mkdir(parents=True, exist_ok=True)
        (root / path).write_bytes(content)
    return root


def kaggle_files(samples: list[Sample]) -> list[tuple[str, bytes]]:
    """Returns the files of Kaggle's competition, with boxes in the tables and a test folder without labels."""
    images, rows = "ILSVRC/Data/CLS-LOC", ["ImageId,PredictionString"]
    files = [(f"{images}/test/ILSVRC2012_test_00000001.JPEG", samples[0].content)]
    for each in of_split(samples, "train"):
        files.append((f"{images}/train/{each.wnid}/{each.name}", each.content))
    for each in of_split(samples, "val"):
        files.append((f"{images}/val/{each.name}", each.content))
        rows.append(f"{each.name.removesuffix('.JPEG')},{each.wnid} 85 1 499 272 {each.wnid} 3 4 50 60 ")
    names = "".join(f"{each.identity} {each.name}\n" for each in imagenet_classes())
    tables = {"LOC_val_solution.csv": "\n".join(rows) + "\n", "LOC_synset_mapping.txt": names}
    return [*files, *((name, text.encode()) for name, text in tables.items())]


def write_kaggle(root: Path, samples: list[Sample]) -> Path:
    """Writes Kaggle's folders and tables."""
    return write_files(root, kaggle_files(samples))


def tiny_files(samples: list[Sample]) -> list[tuple[str, bytes]]:
    """Returns the files of tiny-imagenet-200, with boxes and a test folder without labels."""
    wnids = {each.wnid: imagenet_classes()[each.label].name for each in samples}
    files = [("test/images/test_0.JPEG", samples[0].content), ("wnids.txt", "\n".join(reversed(wnids)).encode())]
    words = "".join(f"{wnid}\t{name}\n" for wnid, name in {"n00001740": "entity", **wnids}.items())
    files.append(("words.txt", words.encode()))
    for wnid in wnids:
        files.append((f"train/{wnid}/{wnid}_boxes.txt", b"x.JPEG\t0\t0\t63\t63\n"))
    for each in of_split(samples, "train"):
        files.append((f"train/{each.wnid}/images/{each.name}", each.content))
    rows = []
    for each in of_split(samples, "val"):
        files.append((f"val/images/{each.name}", each.content))
        rows.append(f"{each.name}\t{each.wnid}\t0\t32\t44\t62\n")
    return [*files, ("val/val_annotations.txt", "".join(rows).encode())]


def write_tiny(root: Path, samples: list[Sample]) -> Path:
    """Writes Tiny ImageNet as its archive unpacks, into a folder of its own."""
    write_files(root / "tiny-imagenet-200", tiny_files(samples))
    return root


def write_zip(root: Path, files: Iterable[tuple[str, bytes]], method: int = zipfile.ZIP_DEFLATED) -> Path:
    """Writes a zip file with what macOS adds."""
    root.mkdir(parents=True, exist_ok=True)
    with zipfile.ZipFile(root / "set.zip", "w", method) as archive:
        for path, content in files:
            archive.writestr(path, content)
            folder, _, name = path.rpartition("/")
            archive.writestr(f"__MACOSX/{folder}/._{name}", b"\0\5\26\7")
    return root / "set.zip"


def write_flat_val(root: Path, samples: list[Sample], suffix: bool = False) -> Path:
    """Writes train/<wnid>/* and a flat val/, whose names have the suffix _<wnid> or not."""
    val = [each.suffixed if suffix else each.name for each in samples]
    names = [each.key if each.split == "train" else f"val/{name}" for each, name in zip(samples, val, strict=True)]
    return write_files(root, zip(names, (each.content for each in samples), strict=True))

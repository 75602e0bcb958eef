"""A mutated archive ends in a message of one line, or in the samples that it had."""

import random
from pathlib import Path

import pytest

from alexnet_torch.data.decode import UnreadableImage, decode_bytes
from alexnet_torch.data.sources.recognise import open_source
from alexnet_torch.data.sources.source import Source
from alexnet_torch.errors import UserError
from tests.data.sources.test_all_forms import FORMS as ALL_FORMS
from tests.support.image_sets import small_set

FORMS = {form: write for form, write in ALL_FORMS.items() if "tar" in form or "zip" in form or form == "parquet"}
FORMS |= {form: ALL_FORMS[form] for form in ("shards with cls", "shards with json")}
KINDS = ("bit", "bits", "cut", "remove", "double", "zeros", "noise", "exchange")


def mutated(content: bytes, kind: str, chance: random.Random) -> bytes:
    """Returns an archive that is cut, or has bits flipped, or a block removed, doubled, filled or exchanged."""
    size = chance.choice([1, 8, 100, 512, 1024])
    first, second = (chance.randrange(max(1, len(content) - size)) for _ in range(2))
    if chance.random() < 0.5:  # tars have blocks of 512 bytes
        first, second, size = first // 512 * 512, second // 512 * 512, max(512, size)
    changed = bytearray(content)
    if kind in ("bit", "bits"):
        for _ in range(1 if kind == "bit" else 10):
            changed[chance.randrange(len(changed))] ^= 1 << chance.randrange(8)
    elif kind == "cut":
        del changed[first:]
    elif kind == "remove":
        del changed[first : first + size]
    elif kind == "double":
        changed[first:first] = changed[first : first + size]
    elif kind == "zeros":
        changed[first : first + size] = bytes(size)
    elif kind == "noise":
        changed[first : first + size] = chance.randbytes(size)
    else:
        changed[first : first + size], changed[second : second + size] = (
            changed[second : second + size],
            changed[first : first + size],
        )
    return bytes(changed)


def check_samples(source: Source, wnid_of: dict[bytes, str]) -> None:
    """Asserts that each image that can be decoded has its class, or is none of the images before the mutation."""
    for split in source.splits:
        for index, label in enumerate(split.labels):
            try:
                content = split.read(index)
                decode_bytes(content, 24, "image")
            except UnreadableImage:
                continue
            assert wnid_of.get(content) in (None, source.identities[label]), split.keys[index]


def check_mutations(form: str, seeds: range, folder: Path) -> None:
    """Asserts for each seed that a mutated data set is refused in a line, or has its samples with their labels."""
    samples = small_set()
    root = FORMS[form](folder / "set", samples)
    originals = {file: file.read_bytes() for file in [root, *sorted(root.rglob("*"))] if file.is_file()}
    messages = 0
    for seed in seeds:
        print(f"seed {seed}")  # shown if it fails
        chance = random.Random(f"{form} {seed}")
        file, kind = chance.choice(list(originals)), chance.choice(KINDS)
        file.write_bytes(mutated(originals[file], kind, chance))
        message, source = "", None
        try:
            source = open_source(root)
        except UserError as error:
            message = str(error)
        if source is None:
            messages += 1
            assert "\n" not in message
            assert str(root) in message
        else:
            check_samples(source, {each.content: each.wnid for each in samples})
            if kind not in ("remove", "double", "exchange"):  # which may leave an intact archive of other members
                # a name in a zip's list has no checksum, and may be moved to a folder that is no class
                renamed = 10 if "zip" in form else 0
                assert len(samples) - renamed <= sum(map(len, source.splits)) <= len(samples)
        file.write_bytes(originals[file])
    assert 0 < messages < len(seeds)  # both ends were seen


@pytest.mark.parametrize("seeds", [range(20), pytest.param(range(20, 120), marks=pytest.mark.slow)])
@pytest.mark.parametrize("form", FORMS)
def test_mutated_archives(form: str, seeds: range, tmp_path: Path) -> None:
    check_mutations(form, seeds, tmp_path)

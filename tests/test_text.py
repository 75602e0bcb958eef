"""Names in any script and encoding: files of names, folders, terminals."""

import json
import os
import re
import xml.etree.ElementTree as ElementTree
from contextlib import redirect_stdout
from pathlib import Path

import h5py
import pytest

from alexnet_torch import cli, load_model
from alexnet_torch.data.sources.listing import read_file_list
from alexnet_torch.errors import UserError
from alexnet_torch.files import read_lines
from alexnet_torch.weights.model_file import save_model
from tests.support.commands import run_cli, run_train
from tests.support.folders import make_images

NAMES = ["äpfel", "猫", "naïve\u2028x"]
TEXT = "äpfel\r\n\n 猫 \nnaïve\u2028x\n"


@pytest.mark.parametrize("encoding", ["utf-8", "utf-8-sig"])
def test_the_mark_of_an_encoding_is_no_part_of_the_first_name(encoding: str, tmp_path: Path) -> None:
    (tmp_path / "names.txt").write_bytes(TEXT.encode(encoding))
    assert read_lines(tmp_path / "names.txt", "--classes") == NAMES


@pytest.mark.parametrize(
    ("content", "message"),
    [
        (
            "ruß\n".encode("latin-1"),
            r"--classes .*names.txt: is not UTF-8 text; convert it, "
            r".*iconv -f LATIN1 -t UTF-8 (\S*names\.txt) > \1\.utf8",
        ),
        ("ruß\n".encode("utf-16-le"), "is not UTF-8 text"),
        (b"\x89PNG\r\n\x1a\n\0\0", "is not UTF-8 text"),
        (b"a\0b", "is not UTF-8 text"),
        (None, "--classes .*names.txt: No such file or directory; check its path"),
    ],
)
def test_text_in_another_encoding_is_refused_with_the_way_to_convert_it(
    content: bytes | None, message: str, tmp_path: Path
) -> None:
    if content is not None:
        (tmp_path / "names.txt").write_bytes(content)
    with pytest.raises(UserError, match=message):
        read_lines(tmp_path / "names.txt", "--classes")


def test_a_list_of_files_may_have_names_that_are_not_utf_8(tmp_path: Path) -> None:
    (tmp_path / "list.txt").write_bytes(b"caf\xe9.png\nb.png\n")
    assert [os.fsencode(name) for name in read_file_list(tmp_path / "list.txt")] == [b"caf\xe9.png", b"b.png"]


@pytest.fixture
def odd_names(run_folder: Path) -> Path:
    """A run whose classes are not all UTF-8 or Latin-1."""
    model = load_model(run_folder)
    save_model(run_folder, type(model)(model.net, (os.fsdecode(b"caf\xe9"), "猫", "äpfel"), model.mean))
    return run_folder


@pytest.mark.parametrize("encoding", ["utf-8", "latin-1", "ascii"])
def test_predict_prints_every_name_on_every_terminal(encoding: str, odd_names: Path, tmp_path: Path) -> None:
    image = str(odd_names.parent / "images/val/class0/000.png")
    with (tmp_path / "out").open("w", encoding=encoding) as terminal, redirect_stdout(terminal):
        assert cli.main(["predict", str(odd_names), image]) == 0
        assert cli.main(["predict", str(odd_names), image, "--json"]) == 0
    *lines, record = (tmp_path / "out").read_text(encoding).splitlines()
    assert sorted(line.split()[1] for line in lines[1:]) == sorted(
        {
            "utf-8": ["caf\\udce9", "猫", "äpfel"],
            "latin-1": ["caf\\udce9", "\\u732b", "äpfel"],
            "ascii": ["caf\\udce9", "\\u732b", "\\xe4pfel"],
        }[encoding]
    )
    assert sorted(c["label"] for c in json.loads(record)["classes"]) == sorted(["caf\udce9", "猫", "äpfel"])


def test_control_characters_of_class_names_reach_no_terminal_and_no_svg(run_folder: Path) -> None:
    model, names = load_model(run_folder), ("a\x1b[2Jb", "c\x9b31md", "e\nf")
    save_model(run_folder, type(model)(model.net, names, model.mean))
    image = run_folder.parent / "images/val/class0/000.png"
    shown = run_cli("predict", run_folder, image).stdout
    assert {line.split("%  ")[1] for line in shown.splitlines()[1:]} == {r"a\x1b[2Jb", r"c\x9b31md", r"e\nf"}
    assert run_cli("figures", run_folder, "--data", "none", "--image", image).returncode == 0
    ElementTree.parse(run_folder / "figures/labels.svg")


@pytest.mark.usefixtures("narrow_demo_recipe")
def test_a_run_with_folders_that_are_not_utf_8_trains(tmp_path: Path) -> None:
    images, run = odd_images(tmp_path), tmp_path / "läuf"
    done = run_train("--data", images, "--output", run, "--recipe", "demo", "--batch-size", "8", "--max-steps", "1")
    assert done.returncode == 0, done.stderr
    assert run_train("--output", run, "--resume", "--max-steps", "2").returncode == 0
    other = tmp_path / os.fsdecode(b"l\xe4uf")  # which TensorBoard cannot open
    for done in (run_train("--data", images, "--output", other), run_cli("figures", run, "--output", other)):
        assert done.returncode == 2
        assert re.search(r"--output .*l\\udce4uf: is not UTF-8, as TensorBoard needs; choose another", done.stderr)
    load_model(run).save_pretrained(tmp_path / "saved")


def odd_images(folder: Path) -> Path:
    images = make_images(folder / os.fsdecode(b"bild\xe9r"))
    for split in ("train", "val"):
        (images / split / "class1").rename(images / split / os.fsdecode(b"caf\xe9"))
    return images


@pytest.mark.parametrize(
    "command",
    [
        "predict RUN IMAGES/val/class0/000.png",
        "evaluate RUN --data IMAGES",
        "features RUN IMAGES/val --output OUT.npy",
        "features RUN IMAGES/val --output OUT.h5",
        "export RUN OUT.safetensors",
        pytest.param("export RUN OUT.onnx", marks=pytest.mark.slow),
        pytest.param("figures RUN --data IMAGES", marks=pytest.mark.slow),
    ],
)
def test_commands_use_images_and_write_files_with_names_that_are_not_utf_8(
    command: str, odd_names: Path, tmp_path: Path
) -> None:
    images, out = odd_images(tmp_path), tmp_path / os.fsdecode(b"caf\xe9")
    model = load_model(odd_names)
    classes = tuple(sorted(path.name for path in (images / "val").iterdir()))
    save_model(odd_names, type(model)(model.net, classes, model.mean))
    words = {"RUN": odd_names, "IMAGES": images, "OUT": out}
    line = [re.sub("RUN|IMAGES|OUT", lambda m: str(words[m[0]]), word) for word in command.split()]
    done = run_cli(*line)
    assert done.returncode == 0, done.stderr
    if command.endswith("h5"):
        with h5py.File(os.fsencode(f"{out}.h5")) as file:
            assert sorted(file["classes"]) == [b"caf\xe9", b"class0", b"class2"]

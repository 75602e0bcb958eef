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
from alexnet_torch.errors import UserError
from alexnet_torch.files import read_lines
from alexnet_torch.weights.model_file import save_model
from tests.support.commands import one_line, resume, run_cli, run_train
from tests.support.folders import make_images


def test_the_mark_of_an_encoding_is_no_part_of_the_first_name(tmp_path: Path) -> None:
    for encoding in ("utf-8", "utf-8-sig"):
        (tmp_path / "names.txt").write_bytes("äpfel\r\n\n 猫 \nnaïve\u2028x\n".encode(encoding))
        assert read_lines(tmp_path / "names.txt", "--classes") == ["äpfel", "猫", "naïve\u2028x"]
    (tmp_path / "list.txt").write_bytes(b"caf\xe9.png\nb.png\n")  # names of files may be in any encoding
    assert [os.fsencode(name) for name in read_lines(tmp_path / "list.txt", "--files", any_bytes=True)] == [
        b"caf\xe9.png",
        b"b.png",
    ]


@pytest.mark.parametrize(
    ("content", "message"),
    [
        ("ruß\n".encode("latin-1"), r"is not UTF-8 text; .*iconv -f LATIN1 -t UTF-8 (\S*names\.txt) > \1\.utf8"),
        ("ruß\n".encode("utf-16-le"), "is not UTF-8 text"),
        (b"\x89PNG\r\n\x1a\n\0\0", "is not UTF-8 text"),
        (None, "No such file or directory; check its path"),
    ],
)
def test_a_file_that_is_no_text_is_refused(content: bytes | None, message: str, tmp_path: Path) -> None:
    if content is not None:
        (tmp_path / "names.txt").write_bytes(content)
    with pytest.raises(UserError, match=f"--classes .*names.txt: {message}"):
        read_lines(tmp_path / "names.txt", "--classes")


def rename_classes(run: Path, *names: str) -> Path:
    model = load_model(run)
    save_model(run, type(model)(model.net, names, model.mean))
    return run


@pytest.mark.parametrize(
    ("encoding", "shown"),
    [
        ("utf-8", ["caf\\udce9", "猫", "äpfel"]),
        ("latin-1", ["caf\\udce9", "\\u732b", "äpfel"]),
        ("ascii", ["caf\\udce9", "\\u732b", "\\xe4pfel"]),
    ],
)
def test_predict_prints_every_name_on_every_terminal(
    encoding: str, shown: list[str], run_folder: Path, tmp_path: Path
) -> None:
    run = rename_classes(run_folder, os.fsdecode(b"caf\xe9"), "猫", "äpfel")
    given = ["predict", str(run), str(tmp_path / "images/val/class0/000.png")]
    with (tmp_path / "out").open("w", encoding=encoding) as terminal, redirect_stdout(terminal):
        assert cli.main(given) == cli.main([*given, "--json"]) == 0
    *lines, record = (tmp_path / "out").read_text(encoding).splitlines()
    assert sorted(line.split()[1] for line in lines[1:]) == sorted(shown)
    assert sorted(c["label"] for c in json.loads(record)["classes"]) == sorted(["caf\udce9", "猫", "äpfel"])


def test_control_characters_of_class_names_reach_no_terminal_and_no_svg(run_folder: Path) -> None:
    rename_classes(run_folder, "a\x1b[2Jb", "c\x9b31md", "e\nf")
    image = run_folder.parent / "images/val/class0/000.png"
    shown = run_cli("predict", run_folder, image).stdout
    assert {line.split("%  ")[1] for line in shown.splitlines()[1:]} == {r"a\x1b[2Jb", r"c\x9b31md", r"e\nf"}
    assert run_cli("figures", run_folder, "--data", "none", "--image", image).returncode == 0
    ElementTree.parse(run_folder / "figures/labels.svg")


def odd_images(folder: Path) -> Path:
    images = make_images(folder / os.fsdecode(b"bild\xe9r"))
    for split in ("train", "val"):
        (images / split / "class1").rename(images / split / os.fsdecode(b"caf\xe9"))
    return images


@pytest.mark.usefixtures("narrow_demo_recipe")
def test_a_run_with_folders_that_are_not_utf_8_trains(tmp_path: Path) -> None:
    images, run = odd_images(tmp_path), tmp_path / "läuf"
    done = run_train("--data", images, "--output", run, "--recipe", "demo", "--batch-size", "8", "--max-steps", "1")
    assert done.returncode == 0, done.stderr
    assert resume(run, "--max-steps", "2").returncode == 0
    other = tmp_path / os.fsdecode(b"l\xe4uf")  # which TensorBoard cannot open
    for done in (run_train("--data", images, "--output", other), run_cli("figures", run, "--output", other)):
        one_line(done, r"--output .*l\\udce4uf: is not UTF-8, as TensorBoard needs; choose another")
    load_model(run).save_pretrained(tmp_path / "saved")


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
    command: str, run_folder: Path, tmp_path: Path
) -> None:
    images, out = odd_images(tmp_path), tmp_path / os.fsdecode(b"caf\xe9")
    rename_classes(run_folder, *sorted(path.name for path in (images / "val").iterdir()))
    words = {"RUN": run_folder, "IMAGES": images, "OUT": out}
    done = run_cli(*(re.sub("RUN|IMAGES|OUT", lambda m: str(words[m[0]]), word) for word in command.split()))
    assert done.returncode == 0, done.stderr
    if command.endswith("h5"):
        with h5py.File(os.fsencode(f"{out}.h5")) as file:
            assert sorted(file["classes"]) == [b"caf\xe9", b"class0", b"class2"]

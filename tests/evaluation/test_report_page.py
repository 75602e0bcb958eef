"""The page about a run: its numbers against independent ones, and that it needs nothing else."""

import json
import re
import shlex
import shutil
from html import unescape
from pathlib import Path

import numpy as np
import pytest
from PIL import Image
from scipy.stats import binomtest

from alexnet_torch import load_model, predict
from alexnet_torch.evaluation import report_page
from alexnet_torch.evaluation.figures import style
from alexnet_torch.evaluation.metrics import wilson_interval
from tests.support.browser import browser
from tests.support.commands import run_cli, run_train
from tests.support.folders import make_images

pytestmark = pytest.mark.usefixtures("narrow_demo_recipe")


@pytest.fixture(scope="module")
def finished(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A run of 1 epoch that wrote its page at the end, of two colours and a class whose name needs escaping."""
    folder = tmp_path_factory.mktemp("page")
    images = make_images(folder / "images", train=8, val=5)
    for split in ("train", "val"):
        (images / split / "class1").rename(images / split / "<b>&")
    Image.new("RGB", (40, 30), (0, 255, 0)).save(images / "val/<b>&/very wrong.png")
    given = ["--data", str(images), "--output", str(folder / "run"), "--recipe", "demo", "--batch-size", "8"]
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(style, "DPI", 40)
        done = run_train(*given, "--epochs", "2", "--lr", "0.02", "--seed", "4", page=True)
    assert done.returncode == 0, done.stderr
    assert f"the page about the run: {folder}/run/report.html" in done.stdout
    return folder / "run"


def cells(html: str) -> list[list[str]]:
    """Returns the texts of the cells of all tables of a page, by row."""
    found = [re.findall(r"<t[dh][^>]*>(.*?)</t[dh]>", row, re.S) for row in re.findall("<tr>(.*?)</tr>", html, re.S)]
    return [[unescape(re.sub("<[^>]*>", "", cell)) for cell in row] for row in found]


@pytest.mark.parametrize(
    ("wrong", "images"), [(0, 1), (1, 1), (0, 355), (2, 355), (85, 500), (500, 500), (123, 50_000)]
)
def test_the_interval_is_wilsons(wrong: int, images: int) -> None:
    expected = binomtest(wrong, images).proportion_ci(0.95, "wilson")
    assert wilson_interval(wrong, images) == pytest.approx((expected.low, expected.high), abs=1e-12)


def test_the_numbers_are_those_of_predict(finished: Path) -> None:
    model, val = load_model(finished), sorted((finished.parent / "images/val").rglob("*.png"))
    guesses = dict(predict(model, val))
    wrong = [file for file in val if guesses[file][0]["label"] != file.parent.name]
    rows = cells((finished / "report.html").read_text())
    low, high = binomtest(len(wrong), len(val)).proportion_ci(0.95, "wilson")
    (centre,) = (row for row in rows if row[0] == "centre crop")
    assert centre[1] == f"{len(wrong) / len(val):.2%} [{low:.2%}, {high:.2%}]"
    for name in model.classes:
        of_class = [file for file in val if file.parent.name == name]
        count = sum(file in wrong for file in of_class)
        (row,) = (row for row in rows if row[0] == name and len(row) == 4)
        assert row[2] == f"{count} of {len(of_class)}"
    pairs = {(row[0], row[1]): int(row[2]) for row in rows if len(row) == 3 and row[2].isdigit()}
    expected: dict[tuple[str, str], int] = {}
    for file in wrong:
        pair = file.parent.name, guesses[file][0]["label"]
        expected[pair] = expected.get(pair, 0) + 1
    assert pairs == expected
    assert wrong


def test_the_worst_image_is_first(finished: Path) -> None:
    model, val = load_model(finished), sorted((finished.parent / "images/val").rglob("*.png"))
    of_label = {
        file: next(g["probability"] for g in guess if g["label"] == file.parent.name)
        for file, guess in predict(model, val)
        if guess[0]["label"] != file.parent.name
    }
    html = (finished / "report.html").read_text()
    shown = re.findall(r'<span class="note">val/(.*?)</span></figcaption>', html)
    ordered = sorted(of_label, key=lambda file: of_label[file])
    names = [str(file.relative_to(finished.parent / "images/val")) for file in ordered]
    assert shown == [name.replace("<b>&", "&lt;b&gt;&amp;") for name in names]


def test_the_page_is_one_file_that_shows_all(finished: Path) -> None:
    html = (finished / "report.html").read_text()
    tags = re.findall(r"<(\w+)", html)
    assert all(value.startswith(("data:", "#")) for value in re.findall(r'(?:src|href)="([^"]*)"', html))
    assert not {"script", "link", "b"} & set(tags)  # <b>& is a class
    assert tags.count("svg") == 1
    headings = re.findall("<h2>(.*?)</h2>", html)
    assert headings == [
        *(
            "Errors",
            "Curves",
            "Training",
            "Errors of each class",
            "Most confused pairs",
            "Confusion",
            "Worst images",
            "Filters",
        ),
        *("Settings", "Machine and versions", "Repeat it"),
    ]
    config = json.loads((finished / "config.json").read_text())
    facts = {row[0]: row[1] for row in cells(html) if len(row) == 2}
    assert facts["torch"] == config["versions"]["torch"]
    assert (facts["--seed"], facts["--label-smoothing"]) == ("4", "0.0")
    assert facts["the recipe's optimizer"] == "paper"
    assert facts["learning rate"].startswith("0.02, at the end 0.0")
    assert facts["processor"] == config["hardware"]["processor"]


def test_the_command_repeats_the_run(finished: Path, tmp_path: Path) -> None:
    html = (finished / "report.html").read_text()
    pre = re.search("<pre>(.*?)</pre>", html, re.S)
    assert pre
    for line in pre[1].splitlines():
        program, script, *options = shlex.split(line)
        assert (program, script) == ("python", "train.py")
        options[options.index("--output") + 1] = str(tmp_path / "again")
        assert run_train(*options).returncode == 0
        assert (tmp_path / "again/model.pt").read_bytes() == (finished / "model.pt").read_bytes()
        shutil.rmtree(tmp_path / "again")


def test_a_page_without_images_says_so(finished: Path, tmp_path: Path) -> None:
    done = run_cli("report", finished, "--data", "none", "--output", tmp_path / "page.html")
    assert done.returncode == 0, done.stderr
    html = (tmp_path / "page.html").read_text()
    assert "name them with --data DIR" in html
    assert "<h2>Curves</h2>" in html
    wrong = run_cli("report", finished, "--data", "none", "--output", tmp_path / "no/page.html")
    assert wrong.returncode == 2
    assert re.search(f"--output {tmp_path}/no/page.html: .*No such file or directory; check its path", wrong.stderr)


def test_a_page_that_fails_does_not_fail_the_run(finished: Path, tmp_path: Path) -> None:
    def fail(*_: object, **__: object) -> None:
        raise MemoryError("of this test")

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(report_page, "write_report", fail)
        given = ["--data", str(finished.parent / "images"), "--recipe", "demo", "--max-steps", "1"]
        done = run_train(*given, "--output", tmp_path / "run", page=True)
    assert done.returncode == 0
    assert "the page about the run could not be written (MemoryError('of this test'))" in done.stderr
    assert f"python -m alexnet_torch report {tmp_path}/run writes it" in done.stderr
    assert json.loads((tmp_path / "run/end.json").read_text())["state"] == "done"


def test_grey_images_are_said_to_leave_the_filters_without_colours(finished: Path, tmp_path: Path) -> None:
    said = "training images are grey: the filters have colours only from their random initial weights"
    assert said not in (finished / "report.html").read_text()
    images = shutil.copytree(finished.parent / "images", tmp_path / "images")
    for file in images.rglob("*.png"):
        Image.open(file).convert("L").save(file)
    given = ["--data", str(images), "--recipe", "demo", "--max-steps", "1"]
    assert run_train(*given, "--output", tmp_path / "run", page=True).returncode == 0
    assert said in (tmp_path / "run/report.html").read_text()
    drawn = run_cli("figures", tmp_path / "run", "--data", "none")
    assert said in drawn.stdout


@pytest.mark.slow
def test_a_browser_shows_the_page(finished: Path) -> None:
    with browser() as page:
        page.open(f"file://{finished}/report.html")
        text = page.wait_for("Curves", "Worst images", "Repeat it")
        assert "0.02" in text
        sizes = page.evaluate("[...document.images].map(i => i.naturalWidth)")
        assert len(sizes) > 3
        assert np.all(np.array(sizes) > 0)

"""Random options and random damage to runs, with fixed seeds: no traceback, one line, a known status.

The long variants are slow: pytest tests/test_fuzzing.py -m slow
"""

import random
import shutil
from pathlib import Path
from subprocess import CompletedProcess

import pytest

from alexnet_torch.recipes.settings import GROUPS, flag, options_of
from tests.support.commands import resume, run_cli, run_train, train_demo

pytestmark = pytest.mark.usefixtures("narrow_demo_recipe")

OPTIONS = sorted(name for group in GROUPS.values() for name in options_of(group) if name not in ("devices", "compile"))
_WORDS = """0 -1 1 2.5 nan inf -inf 1e999 1e-999 1_000 0x10 None True auto none ~ ~nosuchuser /dev/null .. 猫
    conv1..conv9 ,, -- = digits demo paper hybrid ranks bf16 %s{}$HOME"""
_ARABIC_ONE = "\u0661"
VALUES = ["", " ", "x" * 300, "a\nb", "\udce9", str(10**30), "/dev/null/x", _ARABIC_ONE, *_WORDS.split()]


def random_options(random: random.Random) -> list[str]:
    given = []
    for name in random.sample(OPTIONS, random.randint(1, 3)):
        value = random.choice(VALUES)
        given += random.choice([[flag(name), value], [f"{flag(name)}={value}"], [flag(name)]])
    return given


def require_known_end(done: CompletedProcess[str], what: object) -> None:
    assert done.returncode in (0, 1, 2), (what, done)
    assert "Traceback" not in done.stderr, (what, done.stderr)
    if done.returncode:
        (line,) = (x for x in done.stderr.splitlines() if x.startswith(("train.py: ", "python -m alexnet_torch: ")))
        assert len(line) > 20, (what, line)


@pytest.mark.parametrize("cases", [60, pytest.param(1500, marks=pytest.mark.slow)])
def test_random_options_end_in_one_line(cases: int, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    for seed in range(cases):
        given = random_options(random.Random(seed))
        # with no images: what is right with the options ends there
        done = run_train("--recipe", "demo", *given, "--data", tmp_path / "no images", "--max-steps", "1")
        require_known_end(done, given)


@pytest.fixture(scope="module")
def made(tmp_path_factory: pytest.TempPathFactory, narrow_demo_recipe: None) -> Path:  # noqa: ARG001
    folder = tmp_path_factory.mktemp("fuzzed")
    assert train_demo(folder, "--max-steps", "3", "--cache", folder / "cache").returncode == 0
    return folder


def damage(run: Path, random: random.Random) -> str:
    """Changes one file of a run, as disks, editors and other programs do; returns what was done."""
    file = random.choice(sorted(path for path in run.rglob("*") if path.is_file()))
    content = bytearray(file.read_bytes())
    kind = random.choice(("bit", "cut", "empty", "zeros", "noise", "text", "gone"))
    at = random.randrange(max(1, len(content)))
    if kind == "bit" and content:
        content[at] ^= 1 << random.randrange(8)
    elif kind in ("cut", "empty"):
        del content[at if kind == "cut" else 0 :]
    elif kind in ("zeros", "noise"):
        size = len(content[at : at + 64])
        content[at : at + 64] = bytes(size) if kind == "zeros" else random.randbytes(size)
    elif kind == "text":
        content = bytearray(random.choice((b"{}", b"[]", b"null", b"1e999", b'{"settings": 1}', b"\xff\xfe")))
    file.write_bytes(content) if kind != "gone" else file.unlink()
    return f"{kind} at {at} of {file.relative_to(run)}"


@pytest.mark.parametrize("cases", [10, pytest.param(200, marks=pytest.mark.slow)])
def test_random_damage_to_a_run_ends_in_one_line_or_is_repaired(cases: int, made: Path, tmp_path: Path) -> None:
    for seed in range(cases):
        run = Path(shutil.copytree(made / "run", tmp_path / "run"))
        what = damage(run, random.Random(seed))
        require_known_end(run_cli("predict", run, made / "images/val/class0/000.png"), what)
        require_known_end(run_cli("runs", tmp_path), what)
        require_known_end(resume(run, "--max-steps", "4"), what)
        shutil.rmtree(run)

"""Imports go down from room to room, and no module imports what is slow before it is needed."""

import ast
import re
import subprocess
import sys
from pathlib import Path

import pytest

import alexnet_torch
from tests.support.commands import run_cli, run_train

PACKAGE = Path(__file__).parents[1] / "alexnet_torch"
FLOORS = [  # from the ground up; rooms on one floor never import each other
    ["errors"],
    ["console", "files", "randomness", "signals"],
    ["kernel_choice", "native", "run_folder"],
    ["model", "data"],
    ["recipes", "distributed", "weights"],
    ["evaluation"],
    ["training"],
    ["commands"],
    ["cli"],
    ["__main__"],
]
FLOOR = {room: floor for floor, rooms in enumerate(FLOORS) for room in rooms}


def imported_by_room() -> dict[str, set[str]]:
    """Returns for each room the rooms that its modules import; a module at the top level is its own room."""
    rooms: dict[str, set[str]] = {}
    for path in PACKAGE.rglob("*.py"):
        parts = path.relative_to(PACKAGE).with_suffix("").parts
        if parts == ("__init__",):
            continue
        for node in ast.walk(ast.parse(path.read_text())):
            if isinstance(node, ast.ImportFrom) and (node.module or "").split(".")[0] == "alexnet_torch":
                inside = str(node.module).split(".")[1:2] or [name.name for name in node.names]
                rooms.setdefault(parts[0], set()).update({*inside} - {parts[0], "__version__"})
    return rooms


def test_imports_go_down() -> None:
    for room, imported in sorted(imported_by_room().items()):
        print(f"{room} imports {', '.join(sorted(imported))}")
        upward = {other for other in imported if FLOOR[other] >= FLOOR[room] > 0}
        assert not upward, f"{room} imports {upward}, which is on its own floor or above it"


def test_only_distributed_uses_processes() -> None:
    names = re.compile(r"(?<!alexnet_)torch\.distributed|_distributed_c10d|import distributed|torch\.nn\.parallel")
    using = {p.relative_to(PACKAGE).parts[0] for p in PACKAGE.rglob("*.py") if names.search(p.read_text())}
    assert using == {"distributed"}


def test_benchmarks_import_only_their_harness() -> None:
    """benchmarks/gpu is one benchmark in several modules."""
    for path in PACKAGE.parent.joinpath("benchmarks").rglob("*.py"):
        allowed = r"benchmarks\.(harness|gpu)\." if path.parent.name == "gpu" else r"benchmarks\.harness\."
        for line in re.findall(r"^\s*(?:from|import) (benchmarks\S*)", path.read_text(), re.M):
            assert re.match(allowed, line), f"{path} imports {line}"


def modules_after(imports: str) -> set[str]:
    """Returns the modules that a new interpreter has after some imports."""
    code = f"import sys, {imports}; print(*sys.modules)"
    done = subprocess.run([sys.executable, "-c", code], check=True, cwd=PACKAGE.parent, capture_output=True, text=True)
    return set(done.stdout.split())


@pytest.mark.parametrize(
    ("modules", "libraries"),  # what else imports torch.distributed
    [("model.alexnet, alexnet_torch.weights.caffe", "torch"), ("weights.weight_file", "torchvision.models")],
)
def test_the_model_and_its_files_need_no_processes(modules: str, libraries: str) -> None:
    imported = modules_after(f"alexnet_torch.{modules}")
    assert not [name for name in imported if name.startswith("alexnet_torch.distributed")]
    added = imported - modules_after(libraries)
    assert not [name for name in added if "distributed" in name]


def test_help_needs_no_torch() -> None:
    assert "torch" not in modules_after("alexnet_torch.cli")


def test_public_names_exist() -> None:
    for name in alexnet_torch.__all__:
        assert getattr(alexnet_torch, name) is not None
    assert {*alexnet_torch.__all__, "__version__"} <= set(dir(alexnet_torch))


def test_both_programs_tell_the_version() -> None:
    for done in (run_train("--version"), run_cli("--version"), run_cli("predict", "--version")):
        assert (done.returncode, done.stdout) == (0, f"alexnet_torch {alexnet_torch.__version__}\n")

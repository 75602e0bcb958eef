"""A file imports only from files before it in this order, and nobody imports what is slow too early."""

import ast
import re
import subprocess
import sys
from pathlib import Path

PACKAGE = Path(__file__).parents[1] / "alexnet_torch"
ORDER = [
    "errors",
    "randomness",
    "files",
    "memory",
    "architecture",
    "presets",
    "kernels",
    "response_norm",
    "layers",
    "world",
    "devices",
    "peers",
    "exchange",
    "tower",
    "model",
    "placement",
    "rendezvous",
    "roll_call",
    "ranks",
    "shards",
    "data.decode",
    "data.folder",
    "data.samples",
    "data.workers",
    "data.build",
    "data.stream",
    "data.location",
    "data.cache",
    "data.colour",
    "data.augment",
    "data.loader",
    "optim",
    "precision",
    "recipes",
    "ablations",
    "settings",
    "checkpoint",
    "weights",
    "layouts",
    "caffe",
    "inputs",
    "onnx_files",
    "foreign",
    "importing",
    "exporting",
    "finetune",
    "evaluate",
    "prediction",
    "feature_files",
    "features",
    "report",
    "signals",
    "state",
    "best",
    "meter",
    "record",
    "trainer",
    "building",
    "figures.album",
    "figures.colourfulness",
    "figures.filters",
    "figures.nearest",
    "figures.examples",
    "figures.example_plots",
    "figures.curves",
    "figures.draw",
    "cli",
]


def modules() -> dict[str, Path]:
    found = {p.relative_to(PACKAGE).with_suffix("").as_posix().replace("/", "."): p for p in PACKAGE.rglob("*.py")}
    return {name: path for name, path in found.items() if not name.endswith("__init__") and name != "__main__"}


def imported(path: Path) -> set[str]:
    names = set()
    for node in ast.walk(ast.parse(path.read_text())):
        if isinstance(node, ast.ImportFrom) and node.module and node.module.startswith("alexnet_torch"):
            base = node.module.removeprefix("alexnet_torch").lstrip(".")
            names |= {base} if base and base != "data" else {".".join(filter(None, (base, a.name))) for a in node.names}
    return names


def test_every_module_has_its_place() -> None:
    assert set(modules()) == set(ORDER)


def test_imports_go_one_way() -> None:
    for name, path in modules().items():
        later = {other for other in imported(path) if ORDER.index(other) >= ORDER.index(name)}
        assert not later, f"{name} imports {later}"


def test_processes_are_the_business_of_three() -> None:
    names = re.compile(r"torch\.distributed|_distributed_c10d|import distributed|torch\.nn\.parallel")
    assert {name for name, path in modules().items() if names.search(path.read_text())} == {
        "peers",
        "rendezvous",
        "roll_call",
        "ranks",
    }


def test_help_needs_no_torch() -> None:
    code = "import sys; import alexnet_torch.settings, alexnet_torch.cli;assert 'torch' not in sys.modules, 'torch'"
    subprocess.run([sys.executable, "-c", code], check=True, cwd=PACKAGE.parent)


def test_public_names_are_there() -> None:
    import alexnet_torch

    for name in alexnet_torch.__all__:
        assert getattr(alexnet_torch, name) is not None

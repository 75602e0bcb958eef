"""How large the package is, by room, and how many of its modules run before the first gradient.

python -m benchmarks.experiments.code_size [FOLDER]: FOLDER is a checkout, this one by default.
"""

import ast
import subprocess
import sys
from collections import Counter
from pathlib import Path
from tempfile import TemporaryDirectory

HEADER = f"{'room':14}{'files':>6}{'lines':>8}{'characters':>12}{'code':>8}{'refuse':>8}{'one importer':>14}"
_FIRST_GRADIENT = """
import sys, torch
from alexnet_torch.MAIN
backward = torch.Tensor.backward
def first(*values, **options):
    print("modules", sum(name.split(".")[0] == "alexnet_torch" for name in sys.modules), file=sys.stderr)
    sys.stderr.flush()
    torch.Tensor.backward = backward
    return backward(*values, **options)
torch.Tensor.backward = first
main(["--data", "digits", "--recipe", "demo", "--no-mirror", "--max-steps", "1", "--output", sys.argv[1]])
"""


def refusing_lines(tree: ast.Module) -> int:
    """Returns the number of lines that raise or handle an error, and of conditions that only lead to one."""
    lines: set[int] = set()
    for node in ast.walk(tree):
        if isinstance(node, ast.Raise | ast.ExceptHandler):
            lines |= set(range(node.lineno, (node.end_lineno or node.lineno) + 1))
        elif isinstance(node, ast.Try):
            lines.add(node.lineno)
        elif isinstance(node, ast.If) and len(node.body) == 1 and isinstance(node.body[0], ast.Raise):
            lines |= set(range(node.lineno, node.body[0].lineno))
    return len(lines)


def code_lines(text: str, tree: ast.Module) -> int:
    """Returns the number of lines without blank lines, comments and docstrings."""
    kept = {i for i, line in enumerate(text.splitlines(), 1) if line.strip() and not line.strip().startswith("#")}
    for node in ast.walk(tree):
        if isinstance(node, ast.Expr) and isinstance(node.value, ast.Constant) and isinstance(node.value.value, str):
            kept -= set(range(node.lineno, (node.end_lineno or node.lineno) + 1))
    return len(kept)


def importers(package: Path) -> Counter[str]:
    """Returns for each module of the package how many others import it."""
    counts: Counter[str] = Counter()
    for path in package.rglob("*.py"):
        imported = set()
        for node in ast.walk(ast.parse(path.read_text())):
            if isinstance(node, ast.ImportFrom) and (node.module or "").startswith("alexnet_torch"):
                imported |= {str(node.module), *(f"{node.module}.{name.name}" for name in node.names)}
        counts.update(imported)
    return counts


def print_sizes(package: Path) -> None:
    """Prints a row for each room and the sum; a row is a Counter over the columns."""
    rooms: dict[str, Counter[str]] = {}
    counts = importers(package)
    for path in sorted(package.rglob("*.py")):
        parts, text = path.relative_to(package).with_suffix("").parts, path.read_text()
        tree = ast.parse(text)
        row = Counter(
            files=1,
            lines=len(text.splitlines()),
            characters=sum(len(line.strip()) for line in text.splitlines()),
            code=code_lines(text, tree),
            refuse=refusing_lines(tree),
            one=int(counts[".".join(("alexnet_torch", *parts))] == 1),
        )
        for room in (parts[0] if len(parts) > 1 else "top", "package"):
            rooms.setdefault(room, Counter()).update(row)
    rooms["package"] = rooms.pop("package")  # last
    print(HEADER)
    for room, row in rooms.items():
        share = f"{row['refuse'] / row['code']:.1%}"
        print(f"{room:14}{row['files']:6}{row['lines']:8,}{row['characters']:12,}", end="")
        print(f"{row['code']:8,}{share:>8}{row['one']:14}")


def modules_before_first_gradient(checkout: Path) -> str:
    """Returns how many of the package's modules are imported when the first gradient is computed."""
    former = (checkout / "alexnet_torch/train_command.py").exists()
    code = _FIRST_GRADIENT.replace("MAIN", "train_command import main" if former else "cli import train_main as main")
    with TemporaryDirectory() as folder:
        line = [sys.executable, "-c", code, f"{folder}/run"]
        done = subprocess.run(line, cwd=checkout, check=True, capture_output=True, text=True)
    return next(line for line in done.stderr.splitlines() if line.startswith("modules")).removeprefix("modules ")


if __name__ == "__main__":
    folder = Path(sys.argv[1]) if len(sys.argv) > 1 else Path(__file__).parents[2]
    print_sizes(folder / "alexnet_torch")
    print(f"modules before the first gradient: {modules_before_first_gradient(folder)}")

"""Benchmarks import no other benchmark: what two of them need is in benchmarks/harness/. benchmarks/gpu/ is one."""

import ast

from tests.support.paths import PROJECT

BENCHMARKS = PROJECT / "benchmarks"


def test_benchmarks_import_only_the_harness() -> None:
    for path in BENCHMARKS.rglob("*.py"):
        for node in ast.walk(ast.parse(path.read_text())):
            names = [alias.name for alias in node.names] if isinstance(node, ast.Import) else []
            names += [node.module or ""] if isinstance(node, ast.ImportFrom) else []
            allowed = ("benchmarks.harness.", *(["benchmarks.gpu."] if path.parent.name == "gpu" else []))
            wrong = [n for n in names if n.startswith("benchmarks") and not n.startswith(allowed)]
            assert not wrong, f"{path.relative_to(PROJECT)} imports {wrong}"

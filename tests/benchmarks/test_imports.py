"""Benchmarks import no other benchmark: what two of them need is in benchmarks/harness/. benchmarks/gpu/ is one."""

import re

from tests.support.paths import PROJECT


def test_benchmarks_import_only_the_harness() -> None:
    for path in (PROJECT / "benchmarks").rglob("*.py"):
        allowed = r"benchmarks\.(harness|gpu)\." if path.parent.name == "gpu" else r"benchmarks\.harness\."
        for line in re.findall(r"^\s*(?:from|import) (benchmarks\S*)", path.read_text(), re.M):
            assert re.match(allowed, line), f"{path.relative_to(PROJECT)} imports {line}"

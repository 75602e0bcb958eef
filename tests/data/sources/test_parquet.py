"""Rows of parquet files are read in any order, with the memory of a page of them."""

import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest

from alexnet_torch.data.sources.parquet import open_parquet_set

pa = pytest.importorskip("pyarrow")
parquet = pytest.importorskip("pyarrow.parquet")


def write_rows(file: Path, contents: list[bytes | None], group: int, path: bool = True) -> None:
    """Writes images with the label 0 and without metadata."""
    parts = [("bytes", pa.binary()), *([("path", pa.string())] if path else [])]
    rows = [{"image": {"bytes": content, "path": f"{i}.jpg"}, "label": 0} for i, content in enumerate(contents)]
    schema = pa.schema([("image", pa.struct(parts)), ("label", pa.int64())])
    parquet.write_table(pa.Table.from_pylist(rows, schema), file, row_group_size=group)


def test_rows_are_read_in_any_order(tmp_path: Path) -> None:
    contents = [b"%d" % i for i in range(100)]
    write_rows(tmp_path / "x.parquet", list(contents), group=40)
    split = open_parquet_set(tmp_path / "x.parquet").split("val")
    names = [int(Path(key).stem) for key in split.keys]
    assert sorted(names) == list(range(100))
    for i in np.random.default_rng(0).permutation(100).tolist():
        assert split.read(i) == contents[names[i]]


def test_a_file_that_was_replaced_is_read_anew(tmp_path: Path) -> None:
    write_rows(tmp_path / "x.parquet", [b"old"], group=1)
    split = open_parquet_set(tmp_path / "x.parquet").split("val")
    assert split.read(0) == b"old"
    write_rows(tmp_path / "x.parquet", [b"newer"], group=1)
    assert split.read(0) == b"newer"


def test_files_without_paths_and_names_are_read(tmp_path: Path) -> None:
    write_rows(tmp_path / "x.parquet", [b"a", b"b"], group=2, path=False)
    source = open_parquet_set(tmp_path / "x.parquet")
    assert source.identities == ("0",)
    assert [source.split("val").read(i) for i in range(2)] == [b"a", b"b"]


def test_memory_is_that_of_a_page(tmp_path: Path) -> None:
    random = np.random.default_rng(0)
    write_rows(tmp_path / "x.parquet", [random.bytes(8_000) for _ in range(10_000)], group=10_000)
    code = (
        "import pyarrow, sys\n"
        "from pathlib import Path\n"
        "from alexnet_torch.data.sources.parquet import open_parquet_set\n"
        "split = open_parquet_set(Path(sys.argv[1])).split('val')\n"
        "sizes = {len(split.read(i)) for i in split.reader.storage_order()}\n"
        "print(sizes == {8000}, pyarrow.default_memory_pool().max_memory())"
    )
    done = subprocess.run(
        [sys.executable, "-c", code, tmp_path / "x.parquet"], capture_output=True, text=True, check=True
    )
    right, peak = done.stdout.split()
    page = 1024 * 8_000  # pyarrow and datasets write pages of 1,024 rows
    assert right == "True"
    assert page < int(peak) < 4 * page  # as read, decompressed and as an array; the group has ten


def test_a_missing_package_is_named() -> None:
    code = (
        "import sys; sys.modules['pyarrow'] = None\n"
        "from pathlib import Path\n"
        "from alexnet_torch.data.sources.parquet import class_names\n"
        "class_names(Path('x.parquet'))"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=False)
    last = done.stderr.splitlines()[-1]
    assert last.endswith("x.parquet: needs the package pyarrow; pip install 'alexnet_torch[parquet]'")

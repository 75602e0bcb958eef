"""Collects what works with what: a table on the terminal, which docs/clients.md must contain."""

from collections.abc import Generator, Iterator
from importlib.metadata import version
from pathlib import Path

import pytest

from tests.support.paths import PROJECT
from tests.support.rank_pool import RankPool

PAGE = PROJECT / "docs/clients.md"
BEGIN, END = "<!-- the table is written by `pytest tests/clients --write-table` -->\n", "<!-- end of the table -->\n"
Row = tuple[str, str, str]  # client, package, use
ROWS = pytest.StashKey[dict[Row, dict[str, str]]]()


def pytest_addoption(parser: pytest.Parser) -> None:
    parser.addoption("--write-table", action="store_true", help="write the results into docs/clients.md")


def pytest_configure(config: pytest.Config) -> None:
    config.addinivalue_line("markers", "client(name, use, package): a row of the table in docs/clients.md")
    config.addinivalue_line("filterwarnings", "ignore")  # the clients' own, on names that torch will remove
    config.stash[ROWS] = {}


@pytest.hookimpl(wrapper=True)
def pytest_runtest_makereport(
    item: pytest.Item, call: pytest.CallInfo[None]
) -> Generator[None, pytest.TestReport, pytest.TestReport]:
    report = yield
    marker = item.get_closest_marker("client")
    if marker and (call.when == "call" or report.outcome != "passed"):
        name, use, package = marker.args
        network = item.name.split("[")[1].split("]")[0].split("-")[0] if "[" in item.name else "AlexNet"
        cell = {"passed": "yes", "failed": "FAILS", "skipped": "skipped"}[report.outcome]  # FAILS: also by passing
        if hasattr(report, "wasxfail"):
            cell = f"no: {report.wasxfail}"
        item.config.stash[ROWS].setdefault((name, package, use), {})[network] = cell
    return report


def table_lines(rows: dict[Row, dict[str, str]], versions: bool = True) -> list[str]:
    """Returns one line for each row; a version makes no difference to what works."""
    lines = []
    for (name, package, use), cells in rows.items():
        shown = f"{name} {version(package)}" if versions else name
        lines.append(f"| {shown} | {use} | {cells.get('AlexNet', '')} | {cells.get('plain', '')} |")
    return lines


def documented_lines() -> set[str]:
    """Returns the lines of the page's table without versions."""
    table = PAGE.read_text().split(BEGIN)[1].split(END)[0]
    lines = set()
    for line in table.splitlines():
        shown, _, rest = line.removeprefix("| ").partition(" | ")
        lines.add(f"| {shown.rsplit(' ', 1)[0]} | {rest}")
    return lines


@pytest.hookimpl(trylast=True)
def pytest_sessionfinish(session: pytest.Session) -> None:
    rows = session.config.stash[ROWS]
    if session.config.getoption("--write-table"):
        before, rest = PAGE.read_text().split(BEGIN)
        header = ["| client | what it does | on `AlexNet` itself | on `plain(model)` |", "|---|---|---|---|"]
        table = "\n".join([*header, *table_lines(rows)]) + "\n"
        PAGE.write_text(before + BEGIN + "\n" + table + "\n" + END + rest.split(END)[1])
    elif not set(table_lines(rows, versions=False)) <= documented_lines() and session.exitstatus == 0:
        session.exitstatus = pytest.ExitCode.TESTS_FAILED


def pytest_terminal_summary(terminalreporter: pytest.TerminalReporter, config: pytest.Config) -> None:
    rows = config.stash[ROWS]
    terminalreporter.section("what works with what")
    for line in table_lines(rows):
        terminalreporter.write_line(line)
    for line in set(table_lines(rows, versions=False)) - documented_lines():
        terminalreporter.write_line(f"docs/clients.md does not say: {line}; run pytest tests/clients --write-table")


@pytest.fixture(scope="session")
def two_ranks(compiled: Path, tmp_path_factory: pytest.TempPathFactory) -> Iterator[RankPool]:
    """Two processes for the tests of several ranks."""
    cache = tmp_path_factory.mktemp("cache")
    (cache / "alexnet_torch").mkdir()
    (cache / "alexnet_torch/native").symlink_to(compiled)
    pool = RankPool(2, cache)
    yield pool
    pool.close()

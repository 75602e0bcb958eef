"""Every message says what to do, and what it says to do destroys nothing; situations whose fix was wrong or unsafe."""

import ast
import re
import sys
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from alexnet_torch.data.decode import UnreadableImage, decode_bytes
from alexnet_torch.distributed.ranks import Ranks
from alexnet_torch.errors import RunError, UserError
from alexnet_torch.training import launch
from alexnet_torch.weights.inputs import mean_from_option
from tests.support.caffe_files import field, packed_data
from tests.support.commands import one_line, run_cli, run_train
from tests.support.image_sets import small_set
from tests.support.paths import PROJECT

ERRORS = {"UserError", "RunError", "TrainingError", "Interrupted"}
# what a fix may ask for although it takes something away, and why nothing is lost
HARMLESS = {
    "remove {}, which cannot be marked": "a folder of the cache, which the next start builds again",
    "remove the lines": "lines of a list, which name files that do not exist",
}
DESTROYS = re.compile(r"\b(remove|delete|rm|overwrite|discard|erase|retrain)\b|train it again|gzip -d\b", re.I)
# what is filled in says what to do
FILLED_IN = {"{}: seems to be {}", "{} (in its member {})", "--image-size: {}", "layers: {}"}
# a message without a fix of its own: what must be is what to do
SAYS_WHAT_MUST_BE = re.compile(r"must be|must end in|name (at least|the|each|its run)\b|see \{\}")


def messages() -> dict[str, str]:
    """Returns the messages that the source writes as text where it raises, with {} for values, and their places."""
    found = {}
    for file in sorted((PROJECT / "alexnet_torch").rglob("*.py")):
        for node in ast.walk(ast.parse(file.read_text())):
            if isinstance(node, ast.Call) and getattr(node.func, "id", "") in ERRORS:
                for text in node.args:
                    parts = text.values if isinstance(text, ast.JoinedStr) else [text]
                    words = [str(part.value) if isinstance(part, ast.Constant) else "{}" for part in parts]
                    found["".join(words)] = f"{file.relative_to(PROJECT)}:{node.lineno}"
    return found


MESSAGES = messages()


def test_every_message_says_what_to_do() -> None:
    assert len(MESSAGES) > 100
    for text, place in MESSAGES.items():
        cause = text.rpartition(";")[0] or text
        is_composed = not any(len(part.split()) >= 2 for part in cause.split("{}"))  # of other messages
        if not is_composed and text not in FILLED_IN:
            assert ";" in text or SAYS_WHAT_MUST_BE.search(text) or text.count(": ") > 1, f"{place}: {text}"


def test_what_a_message_says_to_do_destroys_nothing() -> None:
    for text, place in MESSAGES.items():
        fix = text.partition(";")[2] or text
        if not any(allowed in fix for allowed in HARMLESS):
            assert not DESTROYS.search(fix), f"{place}: {text}"
            if re.search(r"(start|train) .*(again|new run)", fix):
                assert re.search("another|new folder|elsewhere", fix), f"{place}: {text}"


def test_damaged_means_are_refused(tmp_path: Path) -> None:
    few, flat = tmp_path / "few.binaryproto", tmp_path / "flat.npy"
    few.write_bytes(field(7, field(1, b"\x03\x08\x08")) + packed_data(np.zeros(5, np.float32)))
    np.save(flat, np.zeros((8, 8), np.float32))
    for file, message in ((few, r"is damaged \(cannot reshape"), (flat, r"its shape is \(8, 8\)")):
        with pytest.raises(UserError, match=rf"{file.name}: .*{message}"):
            mean_from_option(str(file), 8)


def test_an_image_that_memory_cannot_hold_is_refused(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def no_memory(_: object) -> None:
        raise MemoryError

    monkeypatch.setattr(Image, "open", no_memory)
    with pytest.raises(UnreadableImage, match=r"large\.png: its header gives a size beyond memory"):
        decode_bytes(next(each.content for each in small_set()), 8, tmp_path / "large.png")


@pytest.mark.parametrize(
    ("command", "name"),
    [
        ("predict RUN/model.pt x.png", "RUN"),
        ("export RUN/model.json x.onnx", "RUN"),
        ("evaluate RUN/model.pt --data images", "RUN"),
        ("predict RUN/../weights.pt x.png", "the folder of a run"),
    ],
)
def test_a_file_in_place_of_a_run_names_the_run(command: str, name: str, run_folder: Path) -> None:
    """The fix was to train the run again, or to restore its model from a backup."""
    (run_folder.parent / "weights.pt").write_bytes(b"x")
    done = run_cli(*command.replace("RUN", str(run_folder)).split())
    one_line(done, f": is a file; name {name.replace('RUN', str(run_folder))}$")


def test_an_error_is_printed_before_the_process_groups_are_closed(monkeypatch: pytest.MonkeyPatch) -> None:
    """NCCL may wait for a lost rank."""

    def fail(*_: object) -> None:
        raise RunError("rank 1 did not reach the sum of gradients")

    def close(_: Ranks, failed: bool = False) -> None:
        closed.append((failed, getattr(sys.stderr, "getvalue")()))  # noqa: B009 - the guard's stream has it

    closed: list[tuple[bool, str]] = []
    monkeypatch.setattr(launch, "launch", fail)
    monkeypatch.setattr(Ranks, "close", close)
    assert run_train("--data", "images").returncode == 1
    assert closed == [(True, "train.py: rank 1 did not reach the sum of gradients\n")]

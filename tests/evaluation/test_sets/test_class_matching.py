"""The model's class of each class of a test set, in the traps that ImageNet's names and orders are."""

import re

import pytest
from torchvision.models import AlexNet_Weights

from alexnet_torch.data.sources.classes import SourceClass, class_of, imagenet_classes
from alexnet_torch.errors import UserError
from alexnet_torch.evaluation.test_sets import match_classes, model_identities

WNIDS = [each.identity for each in imagenet_classes()]
NAMES: list[str] = AlexNet_Weights.IMAGENET1K_V1.meta["categories"]


def indices(model: list[str], test: list[str]) -> list[int]:
    classes = [class_of(identity) for identity in test]
    found: list[int] = match_classes(model, "the model", classes, "--data set").indices.tolist()
    return found


def test_torchvisions_names_of_the_1000_classes_are_their_wnids() -> None:
    assert model_identities(NAMES) == tuple(WNIDS)
    assert model_identities([f"{each.identity} {each.name}" for each in imagenet_classes()]) == tuple(WNIDS)
    assert model_identities([each.name for each in imagenet_classes()]) == tuple(WNIDS)


def test_names_in_another_order_are_not_taken_for_the_standard_order() -> None:
    swapped = [*NAMES[:7], NAMES[8], NAMES[7], *NAMES[9:]]
    assert model_identities(swapped) == tuple(swapped)
    assert model_identities(NAMES[:10]) == tuple(NAMES[:10])


@pytest.mark.parametrize("model", [NAMES, WNIDS], ids=["names", "wnids"])
def test_a_subset_is_matched_by_wnid_whatever_the_models_names(model: list[str]) -> None:
    crane_bird, crane_machine = WNIDS.index("n02012849"), WNIDS.index("n03126707")
    maillots = WNIDS.index("n03710637"), WNIDS.index("n03710721")
    test = [WNIDS[index] for index in (0, crane_bird, crane_machine, *maillots, 999)]
    assert indices(model, test) == [0, 134, 517, 638, 639, 999]
    match = match_classes(model, "m", [class_of(identity) for identity in test], "s")
    assert match.how == "WordNet ID"


@pytest.mark.parametrize(
    ("model", "test", "expected"),
    [
        (NAMES, ["0", "9", "10", "999"], [0, 9, 10, 999]),  # numbered folders are standard indices
        (["n01440764", "n02102040", "n02979186"], ["217", "0"], [1, 0]),  # standard index 217 is n02102040
        ([*"9876543210"], [*"0123456789"], [*range(9, -1, -1)]),  # of a model without WordNet IDs they are names
        (["ants", "bees", "cats"], ["cats", "ants"], [2, 0]),
        (["Ame\u0301lie", "great_white shark"], ["Great White Shark", "am\u00e9lie"], [1, 0]),
        (["tench", "goldfish", "hen"], ["n01443537", "n01440764"], [1, 0]),  # not all of ImageNet's names
        (["n01443537", "n01440764"], ["tench"], [1]),  # the first synonym
    ],
)
def test_classes_are_matched_by_number_or_name(model: list[str], test: list[str], expected: list[int]) -> None:
    assert indices(model, test) == expected


def test_names_that_model_json_keeps_and_first_synonyms_are_known() -> None:
    test = [SourceClass("Bienen", "Bienen"), SourceClass("ants", "ants")]
    match = match_classes(["a", "b"], "m", test, "s", names=["Ants", "bienen"])
    assert match.indices.tolist() == [1, 0]
    test = [SourceClass("0", "goldfish, Carassius auratus"), SourceClass("1", "tench")]
    assert match_classes(["tench", "goldfish", "hen"], "m", test, "s").indices.tolist() == [1, 0]


def test_equal_numbers_of_other_names_are_other_classes() -> None:
    digits, clothes = ("zero", "one"), [SourceClass("0", "T-shirt/top"), SourceClass("1", "Trouser")]
    with pytest.raises(UserError, match="s: 2 of its 2 classes are none of the classes of m: 0, 1; name a set"):
        match_classes(["0", "1"], "m", clothes, "s", digits)
    with pytest.raises(UserError, match="2 of its 2 classes are none of"):  # not the tench and the goldfish
        match_classes(WNIDS, "m", clothes, "s")
    same = [SourceClass("1", "one"), SourceClass("0", "zero")]
    assert match_classes(["0", "1"], "m", same, "s", digits).indices.tolist() == [1, 0]
    assert match_classes(["0", "1"], "m", [class_of("1"), class_of("0")], "s", digits).indices.tolist() == [1, 0]


def test_an_ambiguous_name_is_refused() -> None:
    with pytest.raises(UserError, match=r"--data set: 1 of its 2 classes is not clearly one class of m.*: crane;"):
        match_classes(WNIDS, "m", [SourceClass("crane", "crane"), SourceClass("tench", "tench")], "--data set")
    with pytest.raises(UserError, match=r"2 of its 2 classes are not clearly .*: n02012849, n03126707"):
        match_classes(["crane", "hen"], "m", [class_of("n02012849"), class_of("n03126707")], "--data set")


def test_a_class_of_another_wnid_is_never_matched_by_its_name() -> None:
    with pytest.raises(UserError, match="1 of its 1 classes is none of the classes of the model: n03126707"):
        indices(["n01440764", "n02012849"], ["n03126707"])  # the crane that lifts, and the crane that flies


@pytest.mark.parametrize(
    ("model", "test", "message"),
    [
        (WNIDS[:10], WNIDS[8:12], "2 of its 4 classes are none of the classes of the model: n01530575, n01531178"),
        (["ants", "bees"], ["ants", "wasps"], "1 of its 2 classes is none of the classes of the model: wasps"),
        (NAMES, ["ants", "cats"], "2 of its 2 classes are none of"),
        (["ants", "bees"], [str(i) for i in range(9)], "9 of its 9 classes are none of .*: 0, 1, 2, 3, 4 and 4 more"),
        (NAMES, ["0", "1000"], "2 of its 2 classes are none of"),
    ],
)
def test_unknown_classes_are_named(model: list[str], test: list[str], message: str) -> None:
    with pytest.raises(UserError, match=re.compile(message)):
        indices(model, test)

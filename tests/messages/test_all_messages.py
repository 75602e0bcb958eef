"""Every message: some test gives it, it says what to do, and what it says to do destroys nothing.

pytest tests/messages -k table -s      prints each message with the tests that give it
"""

import re

from tests.messages.collect import Message, all_messages, is_composed, places_that_give, texts_of_tests
from tests.support.paths import PROJECT

MESSAGES = all_messages()

# what a mend may ask for although it takes something away, and why nothing is lost
HARMLESS = {
    "remove {}, which cannot be marked": "a folder of the cache, which the next start builds again",
    "remove the lines": "lines of a list, which name files that do not exist",
}
DESTROYS = re.compile(r"\b(remove|delete|rm|overwrite|discard|erase|retrain)\b|train it again|gzip -d\b", re.I)
# messages whose last value says what to do
FILLED_IN = {"{}: seems to be {}", "--image-size: {}", "{} (in its member {})"}
# a message without a mend of its own: what must be is what to do
SAYS_WHAT_MUST_BE = re.compile(
    r"must be|must end in|name at least|name the |name each|name (the folder|its run)|see \{\}"
)


def test_the_collection_finds_the_messages() -> None:
    assert len(MESSAGES) > 200
    texts = [message.text for message in MESSAGES]
    assert "--output {}: holds a run already; continue it with --resume, or name another folder" in texts


def test_table_every_message_is_given_by_a_test() -> None:
    tests = texts_of_tests()
    without = []
    for message in MESSAGES:
        places = places_that_give(message, tests)
        shown = ", ".join(str(path.relative_to(PROJECT)) for path in places[:2]) or "(composed)"
        print(f"{message.text}\n    {message.place}; {shown}")
        if not places and not is_composed(message):
            without.append(f"{message.place}: {message.text}")
    assert not without, "write a test that gives each:\n" + "\n".join(without)


def is_refusal_of_a_file(message: Message) -> bool:
    """Whether it is the reason for which an image cannot be read: the list of such files has one mend for all."""
    return message.place.startswith("alexnet_torch/data/decode") or "decoded_batches" in message.place


def test_every_message_says_what_to_do() -> None:
    for message in MESSAGES:
        if is_composed(message) or is_refusal_of_a_file(message) or message.text in FILLED_IN:
            continue
        says = ";" in message.text or SAYS_WHAT_MUST_BE.search(message.text) or message.text.count(": ") > 1
        assert says, f"{message.place}: {message.text}"


def test_what_a_message_says_to_do_destroys_nothing() -> None:
    for message in MESSAGES:
        mend = message.text.partition(";")[2] or message.text
        if any(allowed in mend for allowed in HARMLESS):
            continue
        assert not DESTROYS.search(mend), f"{message.place}: {message.text}"
        if re.search(r"(start|train) .*(again|new run)", mend):
            assert re.search("another|new folder|elsewhere", mend), f"{message.place}: {message.text}"

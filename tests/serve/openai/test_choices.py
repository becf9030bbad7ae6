"""The tokens of an answer: final with their text, without those of a stop string, spelled as OpenAI spells them."""

import pytest
from hypothesis import given
from hypothesis import strategies as st

from attncli.config import SampleConfig
from attncli.generation.ending import SampleText
from attncli.generation.events import Finished, Token
from attncli.serve.openai.answers import token_string
from attncli.serve.openai.choices import Choice
from attncli.serve.openai.prompts import ReadPrompt
from attncli.text.tokenizer_training import byte_tokenizer

TOKENIZER = byte_tokenizer()


def deltas_of(data, stop=(), end=None, **more):
    """Feeds bytes to a choice as a batch does, a step for each; returns what every step adds."""
    config = SampleConfig(stop=stop, max_new_tokens=len(data))
    text = SampleText(0, TOKENIZER, config, frozenset() if end is None else frozenset({end}))
    choice, found = Choice(0, ReadPrompt(()), **more), []
    for number, id_ in enumerate(data):
        new = text.push(id_)
        events = [Token(0, id_, "", -1.0, characters=len(new)), *text.settle(new)]
        if not text.finished and number + 1 == len(data):
            events += text.close("length")
        for event in events:
            choice.add(event)
        if (delta := choice.take()) is not None:
            found.append(delta)
        if text.finished:
            break
    return found


def joined(deltas):
    return "".join(delta.text for delta in deltas), [token for delta in deltas for token in delta.tokens]


def ids_of(text):
    return TOKENIZER.encode(text)


def test_a_token_comes_with_its_text_and_half_a_character_with_the_whole_one():
    deltas = deltas_of(ids_of("aé!"))
    assert [(delta.text, len(delta.tokens)) for delta in deltas] == [("a", 1), ("é", 2), ("!", 1)]
    assert [token.start for token in joined(deltas)[1]] == [0, 1, 1, 2]
    assert [delta.reason for delta in deltas] == [None, None, "length"]


@pytest.mark.parametrize("text", ["abENDxyz", "éEND", "END", "aENEND"])
def test_the_tokens_of_a_stop_string_are_in_neither_text_nor_tokens(text):
    deltas = deltas_of(ids_of(text), stop=("END",))
    kept, tokens = joined(deltas)
    assert kept == text[: text.index("END")]
    assert [token.id for token in tokens] == ids_of(kept)
    assert deltas[-1].reason == "stop"


def test_what_could_begin_a_stop_string_is_held_back_with_its_tokens():
    deltas = deltas_of(ids_of("aEN!"), stop=("END",))
    assert [(delta.text, len(delta.tokens)) for delta in deltas] == [("a", 1), ("EN!", 3)]


@pytest.mark.parametrize("ends", [True, False])
def test_the_end_token_is_a_token_without_text(ends):
    deltas = deltas_of([*ids_of("ab"), 256, 7], end=256, ends=ends)
    text, tokens = joined(deltas)
    assert text == "ab"
    assert [token.id for token in tokens] == [*ids_of("ab"), *([256] if ends else [])]
    assert deltas[-1].reason == "stop"


@given(st.text(alphabet="aбé🎉END", min_size=1, max_size=12), st.booleans())
def test_the_parts_sum_to_the_whole(text, stops):
    stop = ("END",) if stops else ()
    kept = text.partition("END")[0] if stops else text
    found, tokens = joined(deltas_of(ids_of(text), stop=stop))
    assert found == kept
    assert [token.id for token in tokens] == ids_of(kept)
    starts = [token.start for token in tokens]
    assert starts == [len(kept.encode()[:at].decode(errors="ignore")) for at in range(len(tokens))]


def test_generated_tokens_are_counted_with_those_of_the_stop_string():
    choice = Choice(0, ReadPrompt(()))
    choice.add(Finished(0, "stop", (1, 2, 3)))
    assert choice.take().reason == "stop"
    assert choice.generated == 3
    assert choice.take() is not None  # the end is told until nobody asks


@pytest.mark.parametrize(
    ("data", "spelled"),
    [(b" cat", " cat"), ("é".encode(), "é"), (b"\xe2", "bytes:\\xe2"), (b" \xf0\x9f", "bytes: \\xf0\\x9f")],
)
def test_half_a_character_is_spelled_as_its_bytes(data, spelled):
    assert token_string(data) == spelled

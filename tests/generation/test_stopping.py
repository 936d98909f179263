"""Stop strings end a text wherever their pieces are cut, and never show."""

import itertools

import pytest

from keras_gemma.generation import StopStrings


@pytest.mark.parametrize("strings", [["END"], ["ab", "abc"], ["xx"], ["\n\n"]])
def test_however_the_text_is_cut_the_same_is_shown(strings):
    text = "one aba\nEN ab xENDx\n\nabc more END"
    first = (
        min(text.find(string) for string in strings if string in text)
        if any(string in text for string in strings)
        else len(text)
    )
    for cuts in itertools.combinations(range(1, len(text)), 2):
        stops, shown = StopStrings(strings), ""
        for start, end in zip((0, *cuts), (*cuts, len(text))):
            shown += stops.push(text[start:end])
            assert text[:first].startswith(shown)
        shown += stops.finish()
        assert shown == text[:first]


def test_without_stop_strings_all_is_shown_at_once():
    stops = StopStrings()
    assert [stops.push("a"), stops.push("b"), stops.finish()] == ["a", "b", ""]
    assert not stops.found


@pytest.mark.parametrize("bad", [[""], [3]])
def test_what_is_no_string_is_told(bad):
    with pytest.raises(ValueError, match="stop string"):
        StopStrings(bad)

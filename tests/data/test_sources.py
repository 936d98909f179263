"""The texts that are read from packages; skipped, by name, where a package is absent."""

import itertools

import pytest

from keras_gemma.data import bible, wordnet

pytestmark = pytest.mark.once

needs_wordnet = pytest.mark.skipif(
    not wordnet.FOLDER.exists(), reason="the Debian package wordnet-base is not installed"
)


def test_markup_goes_and_spaces_stay():
    assert bible.plain('Yahweh’s <w lemma="x">word</w><note>or, voice</note>.') == (
        "Yahweh’s word."
    )
    assert bible.plain("<title>Psalm</title><l/>my  cup\nruns over") == "my cup runs over"


def test_one_chapter_of_twenty_is_held_out_whatever_the_text():
    chapters = [bible.Chapter(f"Book {number}", "text") for number in range(2000)]
    assert 60 < sum(chapter.held_out for chapter in chapters) < 140
    assert bible.Chapter("Book 7", "a").held_out == bible.Chapter("Book 7", "b").held_out


def test_chapters_are_clean_text():
    pytest.importorskip("pysword")
    if not bible.MODULES.exists():
        pytest.skip("the Debian package sword-text-web is not installed")
    first = next(iter(bible.chapters()))
    assert first.name == "Genesis 1"
    assert first.text.startswith("In the beginning, God created the heavens and the earth.")
    assert not set("<>{}") & set(first.text)


def test_an_absent_package_is_named(tmp_path):
    with pytest.raises(FileNotFoundError, match="sword-text-web"):
        next(iter(bible.chapters(tmp_path / "nowhere")))
    with pytest.raises(FileNotFoundError, match="wordnet-base"):
        next(wordnet.sentences(tmp_path))


def test_sentences_are_read_from_glosses_and_filtered(tmp_path):
    gloss = '00001740 00 a 01 able 0 000 | having power; "able to swim the river"; "too short"; '
    rude = '00001740 00 a 01 rude 0 000 | bad; "he said damn to the teacher"; '
    for part in ("adj", "adv", "noun", "verb"):
        (tmp_path / f"data.{part}").write_text(f"{gloss}\n{rude}\n" if part == "adj" else "")
    assert list(wordnet.sentences(tmp_path)) == ["Able to swim the river."]


@needs_wordnet
def test_wordnet_gives_sentences():
    found = list(itertools.islice(wordnet.sentences(), 2000))
    assert all(len(s.split()) >= 5 and s[-1] in ".!?" for s in found)

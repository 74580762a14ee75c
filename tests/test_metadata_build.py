"""Tests of how the shipped English metadata is made."""

import importlib.metadata
import sys
from pathlib import Path

import pytest

from stream_curate import metadata_build
from stream_curate.errors import ConfigError, UsageError
from stream_curate.metadata import Metadata
from stream_curate.metadata_build import build_english, frequent_words, wordnet_lemmas, write_english
from stream_curate.spacing import can_match

# Lines of WordNet 3.0's data files. WordNet 3.0 Copyright 2006 by Princeton University. All
# rights reserved. Used under the licence in metadata/LICENSE-WordNet-3.0.txt.
LICENCE_LINES = (
    "  1 This software and database is being provided to you, the LICENSEE, by  \n"
    "  2 Princeton University under the following license.  By obtaining, using  \n"
)
EXCERPT = {
    "data.noun": """\
00001740 03 n 01 entity 0 003 ~ 00001930 n 0000 ~ 00002137 n 0000 ~ 04424418 n 0000 | that which is perceived or \
known or inferred to have its own distinct existence (living or nonliving)
02508742 05 n 0a bassarisk 0 cacomistle 0 cacomixle 0 coon_cat 2 raccoon_fox 0 ringtail 3 ring-tailed_cat 0 \
civet_cat 2 miner's_cat 0 Bassariscus_astutus 0 002 @ 02507649 n 0000 #m 02508615 n 0000 | raccoon-like \
omnivorous mammal of Mexico and the southwestern United States having a long bushy tail with black and white \
rings
06704115 10 n 02 Ph.D. 0 PhD 0 001 @ 06703953 n 0000 | a doctorate usually based on at least 3 years graduate \
study and a dissertation; the highest degree awarded graduate study
07676602 13 n 08 frank 0 frankfurter 0 hotdog 1 hot_dog 1 dog 1 wiener 0 wienerwurst 0 weenie 0 003 @ 07675627 n \
0000 #p 07697537 n 0000 ~ 07676855 n 0000 | a smooth-textured sausage of minced beef or pork usually smoked; \
often served on a bread roll
""",
    "data.verb": """\
00005041 29 v 03 inhale 0 inspire 0 breathe_in 0 014 @ 00001740 v 0000 + 03110486 a 0201 + 00836788 n 0202 + \
02749366 a 0101 + 14919156 n 0101 + 00836788 n 0101 + 04080833 n 0102 ! 00004227 v 0101 ~ 00003316 v 0000 ~ \
00007549 v 0000 ~ 00101779 v 0000 ~ 00109263 v 0000 ~ 01199027 v 0000 ~ 01200263 v 0000 02 + 02 00 + 08 00 | \
draw in (air); "Inhale deeply"; "inhale the fresh mountain air"; "The patient has trouble inspiring"; "The lung \
cancer patient cannot inspire air very well"
""",
    "data.adj": """\
00014358 00 s 02 abounding 0 galore(ip) 0 001 & 00013887 a 0000 | existing in abundance; "abounding confidence"; \
"whiskey galore"
00019731 00 s 02 handy 0 ready_to_hand(p) 0 002 & 00019131 a 0000 + 04718999 n 0101 | easy to reach; "found a \
handy spot for the can opener"
00020103 00 s 02 outback(a) 0 remote 0 003 & 00019874 a 0000 + 05085165 n 0202 + 08505110 n 0101 | inaccessible \
and sparsely populated;
""",
    "data.adv": """\
00001740 02 r 01 a_cappella 0 000 | without musical accompaniment; "they performed a cappella"
""",
}

LEMMAS = [
    *["entity", "bassarisk", "cacomistle", "cacomixle", "coon cat", "raccoon fox", "ringtail", "ring-tailed cat"],
    *["civet cat", "miner's cat", "Bassariscus astutus", "Ph.D.", "PhD"],
    *["frank", "frankfurter", "hotdog", "hot dog", "dog", "wiener", "wienerwurst", "weenie"],
    *["inhale", "inspire", "breathe in"],
    *["abounding", "galore", "handy", "ready to hand", "outback", "remote"],
    "a cappella",
]


@pytest.fixture
def wordnet(tmp_path: Path) -> Path:
    for name, synsets in EXCERPT.items():
        (tmp_path / name).write_text(LICENCE_LINES + synsets, encoding="ascii")
    return tmp_path


def test_lemmas_keep_case_and_lose_underscores_and_adjective_markers(wordnet: Path) -> None:
    assert list(wordnet_lemmas(wordnet)) == LEMMAS


def test_a_missing_file_is_named_with_what_is_expected(wordnet: Path) -> None:
    (wordnet / "data.adv").unlink()

    with pytest.raises(ConfigError, match=r"data\.adv: cannot be read as a data file of WordNet 3\.0.*wordnet-base"):
        list(wordnet_lemmas(wordnet))


@pytest.mark.parametrize("line", ["dog", "00001740 03 n zz entity 0 000 | x", "00001740 03 n 05 entity 0"])
def test_a_line_that_is_no_synset_is_named(wordnet: Path, line: str) -> None:
    (wordnet / "data.verb").write_text(LICENCE_LINES + line + "\n", encoding="ascii")

    with pytest.raises(ConfigError, match=r"data\.verb: line 3 is not a WordNet synset"):
        list(wordnet_lemmas(wordnet))


def test_frequent_words_come_most_frequent_first_and_once() -> None:
    words = frequent_words(1_000)

    assert words[:5] == ["the", "to", "and", "of", "a"]
    assert len(words) == len(set(words)) == 1_000
    assert words == frequent_words(2_000)[:1_000]


def test_more_words_than_there_are_is_refused() -> None:
    with pytest.raises(UsageError, match=r"has 319,938 words, not 10,000,000: ask for fewer"):
        frequent_words(10_000_000)


def test_without_wordfreq_the_error_says_what_to_install(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "wordfreq", None)

    with pytest.raises(ConfigError, match=r"needs wordfreq: pip install 'stream-curate\[metadata-build\]'"):
        frequent_words(10)


def test_another_wordfreq_is_refused(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(metadata_build, "version", lambda name: "3.0.3" if name == "wordfreq" else "")

    with pytest.raises(ConfigError, match=r"wordfreq 3\.0\.3 may hold another list than 3\.1\.1"):
        frequent_words(10)


def test_the_list_is_lemmas_then_words_without_repeats_and_without_what_cannot_match(wordnet: Path) -> None:
    lemmas = [lemma for lemma in dict.fromkeys(LEMMAS) if can_match(lemma)]
    words = [word for word in frequent_words(3_000) if can_match(word) and word not in lemmas]

    built = build_english(wordnet, n_words=3_000)

    assert len(lemmas) < len(set(LEMMAS))
    assert built.entries.to_pylist() == lemmas + words


def test_the_written_file_is_the_built_list(wordnet: Path, tmp_path: Path) -> None:
    written = write_english(wordnet, tmp_path / "english.txt.zst", n_words=100)

    assert Metadata.load(tmp_path / "english.txt.zst").fingerprint == written.fingerprint
    assert written.fingerprint == build_english(wordnet, n_words=100).fingerprint


def test_the_shipped_list_ends_with_the_frequent_words() -> None:
    """What `metadata/README.md` says of the second part, without WordNet at hand."""
    entries = Metadata.default().entries.to_pylist()
    n_lemmas = 148_298
    lemmas = set(entries[:n_lemmas])

    assert entries[0] == "entity"
    assert entries[n_lemmas:] == [word for word in frequent_words() if word not in lemmas and can_match(word)]


def test_the_pinned_wordfreq_is_the_one_installed() -> None:
    assert importlib.metadata.version("wordfreq") == metadata_build.WORDFREQ_VERSION

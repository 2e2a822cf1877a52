"""The filter by language: what it knows, what it keeps when in doubt, and what it must not lose."""

import csv
import json
import subprocess
import sys
from dataclasses import replace
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from captionflow.core.errors import InvalidInputError
from captionflow.core.languages import LANGUAGES, language_of
from captionflow.core.records import ImageCaption, Reject
from captionflow.preprocess.filters import apply_all
from captionflow.preprocess.parameters import PreprocessParameters
from tests.ingesting import CAPTION

ENGLISH = PreprocessParameters(languages=("en",))
MOST_LOST = 0.02
"""Share of English captions."""

FOREIGN = {
    "de": "Zwei Kinder spielen mit einem Ball auf der Wiese.",
    "fr": "Une femme en robe rouge marche dans la rue.",
    "es": "Un perro blanco corre por la playa con una pelota.",
    "it": "Un uomo con la barba legge il giornale al parco.",
    "pt": "Um menino está sentado na areia perto do mar.",
    "nl": "Een jongen rijdt op zijn fiets door het bos.",
    "pl": "Mały chłopiec gra w piłkę na podwórku.",
    "cs": "Dvě děti si hrají se psem na zahradě.",
    "fi": "Nainen seisoo rannalla ja katsoo merelle.",
    "tr": "Küçük bir kız parkta köpeğiyle oynuyor.",
    "ru": "Мальчик едет на велосипеде по дороге.",
    "el": "Ένα αγόρι παίζει με τον σκύλο του.",
    "ar": "رجل يجلس على كرسي في الحديقة.",
    "hi": "एक लड़का मैदान में गेंद से खेल रहा है।",
    "ja": "公園で犬と遊んでいる男の子。",
    "zh": "一个男孩在公园里和狗玩。",
    "ko": "한 소년이 공원에서 개와 놀고 있다.",
}


def is_lost(text: str) -> bool:
    record = apply_all(replace(CAPTION, caption=text), ENGLISH)
    return isinstance(record, Reject) and record.reason == "other_language"


def test_the_languages_are_those_of_the_model() -> None:
    from py3langid.langid import MODEL_FILE, LanguageIdentifier

    assert sorted([*LANGUAGES, "zxx"]) == sorted(LanguageIdentifier.from_model_file(MODEL_FILE).labels)


@pytest.mark.parametrize("language", FOREIGN)
def test_a_caption_in_another_language_is_rejected(language: str) -> None:
    caption = replace(CAPTION, caption=FOREIGN[language])
    assert language_of(FOREIGN[language]) == language
    reject = apply_all(caption, ENGLISH)
    assert isinstance(reject, Reject)
    assert (reject.stage, reject.reason, reject.detail) == ("filters", "other_language", language)
    for languages in ((), ("*",), ("en", language)):
        assert isinstance(apply_all(caption, PreprocessParameters(languages=languages)), ImageCaption)


@pytest.mark.parametrize(
    "text",
    ["A dog.", "Two men.", "A man surfing a wave.", "a red bus on street", "Snow", "IMG_2034", "Eiffel Tower", "12",
     "🐈", "A PERSON ON SKIS"],
)  # fmt: skip
def test_a_few_words_are_kept(text: str) -> None:
    assert not is_lost(text)


def test_captions_of_the_built_in_sample_are_kept(small_sample: Path) -> None:
    captions = [row["caption"] for row in json.loads((small_sample / "captions.json").read_text())["annotations"]]
    assert [caption for caption in captions if is_lost(caption)] == []


def test_few_english_captions_of_photographs_are_lost(coco_mini: Path) -> None:
    files = (coco_mini / "annotations").glob("captions_*.json")
    captions = [row["caption"] for file in files for row in json.loads(file.read_text())["annotations"]]
    assert len(captions) == 795
    assert sum(map(is_lost, captions)) <= MOST_LOST * len(captions)


def test_few_english_captions_of_flickr8k_are_lost(flickr8k: Path) -> None:
    with (flickr8k / "dev.csv").open(newline="") as file:
        captions = [row["caption"] for row in csv.DictReader(file)]
    assert len(captions) == 5000
    assert sum(map(is_lost, captions)) <= MOST_LOST * len(captions)


@given(st.text() | st.text(st.characters(codec=None)))
def test_any_text_has_a_language_or_none(text: str) -> None:
    assert language_of(text) in ("", *LANGUAGES)


@pytest.mark.parametrize("code", ["EN", "english", "eng", "xx", ""])
def test_what_is_no_language_is_refused(code: str) -> None:
    with pytest.raises(InvalidInputError, match=f"^--languages: '{code}' is none of \\*, ace, af, "):
        PreprocessParameters(languages=("en", code))


def test_the_model_is_loaded_by_those_who_filter() -> None:
    code = "import sys, captionflow.preprocess.filters; assert 'py3langid' not in sys.modules"
    subprocess.run([sys.executable, "-c", code], check=True)

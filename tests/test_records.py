"""Records: their JSON form, and the checks at the border."""

import json
import re
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from captionflow.core.records import ImageCaption, RecordError, Reject, to_json_line

INT64 = st.integers(-(2**63), 2**63 - 1)
TEXT = st.text()
# Lone surrogates, but never a high one before a low one: JSON reads such a pair as one character.
ANY_TEXT = st.text(st.characters(codec=None)).filter(lambda text: not re.search("[\ud800-\udbff][\udc00-\udfff]", text))
CAPTIONS = st.builds(
    ImageCaption, image_id=INT64, id=INT64, caption=TEXT, image_url=TEXT, image_name=TEXT, image_license=TEXT
)
ROW: dict[str, Any] = {
    "image_id": 7,
    "id": 1,
    "caption": "a cat",
    "image_url": "http://images.example/7.jpg",
    "image_name": "7.jpg",
    "image_license": "Attribution License",
}
JSON = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats() | st.text(),
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.text(), inner, max_size=3),
    max_leaves=5,
)


@given(CAPTIONS)
def test_a_caption_survives_json_as_one_line(caption: ImageCaption) -> None:
    line = to_json_line(caption)
    assert line.endswith(b"\n")
    assert line.count(b"\n") == 1
    assert ImageCaption.from_json(line) == caption


@given(
    st.builds(
        Reject,
        stage=TEXT,
        reason=TEXT,
        detail=ANY_TEXT,
        id=st.none() | st.integers(),
        image_id=st.none() | st.integers(),
        image_url=st.none() | ANY_TEXT,
        retryable=st.booleans(),
    )
)
def test_a_reject_survives_json_whatever_its_text(reject: Reject) -> None:
    line = to_json_line(reject)
    assert line.count(b"\n") == 1
    assert Reject.from_json(line) == reject


@given(CAPTIONS, TEXT, TEXT)
def test_a_reject_says_which_caption_it_was(caption: ImageCaption, reason: str, detail: str) -> None:
    reject = Reject.of(caption, "fetch", reason, detail, retryable=True)
    assert (reject.id, reject.image_id, reject.image_url) == (caption.id, caption.image_id, caption.image_url)
    assert (reject.stage, reject.reason, reject.detail, reject.retryable) == ("fetch", reason, detail, True)


def test_other_keys_are_left_out() -> None:
    assert ImageCaption.from_mapping({**ROW, "width": 640}) == ImageCaption(**ROW)


@pytest.mark.parametrize("name", ["image_id", "id", "caption", "image_url"])
def test_a_missing_field_is_named(name: str) -> None:
    for row in ({k: v for k, v in ROW.items() if k != name}, {**ROW, name: None}):
        with pytest.raises(RecordError, match=name) as raised:
            ImageCaption.from_mapping(row)
        assert raised.value.reason == "missing_field"


@pytest.mark.parametrize(
    ("name", "value"),
    [
        ("id", "1"),
        ("id", 1.0),
        ("id", True),
        ("id", 2**63),
        ("id", -(2**63) - 1),
        ("id", []),
        ("image_id", False),
        ("image_id", float("nan")),
        ("caption", 5),
        ("caption", b"a cat"),
        ("caption", ["a cat"]),
        ("caption", "a \ud800 cat"),
        ("image_url", {}),
        ("image_name", "\udcff"),
        ("image_license", 4),
    ],
)
def test_an_ill_typed_field_is_named(name: str, value: Any) -> None:
    with pytest.raises(RecordError, match=name) as raised:
        ImageCaption.from_mapping({**ROW, name: value})
    assert raised.value.reason == "ill_typed_field"


@given(st.dictionaries(st.sampled_from(list(ROW)), JSON))
def test_any_json_object_is_a_caption_or_a_record_error(changes: dict[str, Any]) -> None:
    line = json.dumps({**ROW, **changes})
    try:
        caption = ImageCaption.from_json(line)
    except RecordError as error:
        assert error.reason in ("missing_field", "ill_typed_field")  # noqa: PT017
    else:
        assert ImageCaption.from_json(to_json_line(caption)) == caption


@pytest.mark.parametrize("line", ["[]", "1", '"text"', "null", "NaN", "[" * 100_000, '{"id":' * 100_000])
def test_a_line_that_is_no_json_object_says_so(line: str) -> None:
    with pytest.raises(RecordError) as raised:
        ImageCaption.from_json(line)
    assert raised.value.reason == "not_json"


@pytest.mark.parametrize("line", [b"", b"{", b"{'id': 1}", b"\xff\xfe\xfd", b'{"id": ' + b"9" * 5000 + b"}"])
def test_a_line_that_is_no_json_says_so(line: bytes) -> None:
    with pytest.raises(RecordError) as raised:
        ImageCaption.from_json(line)
    assert raised.value.reason == "not_json"


@given(st.binary())
def test_any_bytes_are_a_caption_or_a_record_error(line: bytes) -> None:
    with pytest.raises(RecordError):
        ImageCaption.from_json(line)

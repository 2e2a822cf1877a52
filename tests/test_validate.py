"""`captionflow validate`: what is measured, what is an anomaly, and a page that trusts no caption."""

import hashlib
import json
import logging
import math
import re
import shutil
from collections import Counter
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from captionflow.core.artifact import open_artifact
from captionflow.core.errors import InvalidInputError, StepFailedError
from captionflow.core.records import ImageCaption
from captionflow.core.steps import MODEL, PREPROCESSED
from captionflow.core.summary import summary
from captionflow.validation import keys as keys_module
from captionflow.validation.anomalies import anomalies, divergence, drifts, largest_change
from captionflow.validation.frequent import Frequent
from captionflow.validation.keys import Keys, fingerprint
from captionflow.validation.measure import host_of
from captionflow.validation.parameters import ValidateParameters
from captionflow.validation.schema import Schema, infer
from captionflow.validation.statistics import (
    CATEGORIES,
    NUMBERS,
    Categories,
    Numbers,
    Statistics,
    bin_of,
    next_bin,
)
from captionflow.validation.validate import validate
from tests.ingesting import CAPTION, ingest_records
from tests.processes import captionflow
from tests.recipes import ROOT, commands, recipe, run
from tests.security.test_output import forge
from tests.test_dag import content

INT64 = st.integers(-(2**63), 2**63 - 1)
COUNTS = st.dictionaries(st.integers(0, 10_000), st.integers(1, 1000), min_size=1, max_size=30)
SENTENCES = [
    "A man is riding a wave on top of a surfboard.",
    "Two dogs are playing with a ball in the green grass.",
    "A woman sits at the table and drinks a cup of coffee.",
    "The train stops at the station, where many people are waiting.",
]


def captions(images: int = 20, per_image: int = 2, **fields: Any) -> list[ImageCaption]:
    """Captions of their own, of images of their own."""
    return [
        replace(
            CAPTION, image_id=image, id=image * per_image + i, image_url=f"http://x/{image}.jpg",
            caption=f"{SENTENCES[(image + i) % len(SENTENCES)]} Number {image * per_image + i}.", **fields,
        )
        for image in range(images) for i in range(per_image)
    ]  # fmt: skip


def validated(folder: Path, records: list[ImageCaption], **parameters: Any) -> dict[str, Any]:
    """Ingest and validate the records; returns the JSON files of the artifact, by name."""
    uri = validate(ingest_records(records, folder), str(folder / "validation"), ValidateParameters(**parameters))
    artifact = open_artifact(uri, "validation")
    artifact.verify()
    names = ("statistics", "schema", "anomalies")
    return {name: json.loads(artifact.read(f"{name}.json")) for name in names}


def named(folder: Path, records: list[ImageCaption], **parameters: Any) -> list[str]:
    return [anomaly["name"] for anomaly in validated(folder, records, **parameters)["anomalies"]["anomalies"]]


def written(folder: Path, schema: Any) -> str:
    folder.mkdir(exist_ok=True)
    (folder / "schema.json").write_text(schema if isinstance(schema, str) else json.dumps(schema))
    return str(folder / "schema.json")


# What is measured. --------------------------------------------------------------------------------------------------


def test_what_is_measured_of_captions(tmp_path: Path) -> None:
    rows = [
        ImageCaption(1, 1, "A dog, a DOG!", "http://One.example:8080/1.jpg", image_license="x", split="train"),
        ImageCaption(1, 2, "A dog, a DOG!", "http://One.example:8080/1.jpg", image_license="x", split="train"),
        ImageCaption(2, 3, "A dog, a DOG!", "http://me:pw@one.example/2.jpg"),
        ImageCaption(3, 4, "Un chat.", "s3://bucket/3.jpg", split="val+test"),
        ImageCaption(4, 5, " ", "s3://bucket/3.jpg"),
        ImageCaption(5, 6, "one " * 20, "s3://bucket/3.jpg"),
    ]
    made = validated(tmp_path, rows, language_sample=0)["statistics"]
    assert (made["captions"], made["images"]) == (6, 5)
    assert made["numbers"]["captions_per_image"]["bins"] == {"1": 4, "2": 1}
    words = made["numbers"]["words_per_caption"]
    assert (words["minimum"], words["median"], words["maximum"], words["mean"]) == (0, 4, 20, (3 * 4 + 2 + 0 + 20) / 6)
    assert words["bins"] == {"0": 1, "2": 1, "4": 3, "20": 1}
    assert made["numbers"]["characters_per_caption"]["maximum"] == 80
    assert {name: made["categories"][name]["counts"] for name in CATEGORIES} == {
        "words": {"one": 20, "a": 6, "dog": 6, "chat": 1, "un": 1},
        "licenses": {"unknown": 4, "x": 2},
        "hosts": {"one.example": 3, "s3://bucket": 3},
        "splits": {"none": 3, "train": 2, "val+test": 1},
        "languages": {},
    }
    assert made["duplicates"] == {"ids": 0, "urls": 2, "captions": 2}
    assert made["repeated_captions"] == [["A dog, a DOG!", 3]]
    assert made["repeated_urls"] == [["s3://bucket/3.jpg", 3]]
    assert Statistics.from_json(json.dumps(made).encode()).shares == {
        "unknown_licenses": 4 / 6, "duplicate_ids": 0, "duplicate_urls": 2 / 5, "duplicate_captions": 2 / 6,
        "wordless_captions": 1 / 6,
    }  # fmt: skip


@pytest.mark.parametrize(
    ("url", "host"),
    [
        ("HTTPS://A.Example/x.jpg", "a.example"),
        ("http://[::1]:80/x", "[::1]"),
        ("http://user@host?x", "host"),
        ("gs://Bucket/x", "gs://bucket"),
        ("file:///data/x.jpg", "local"),
        ("/data/x.jpg", "local"),
        ("images/http://x", "local"),
        ("", "local"),
        ("http://", ""),
    ],
)
def test_a_host_is_that_of_the_url(url: str, host: str) -> None:
    assert host_of(url) == host


def test_languages_are_guessed_of_a_sample_that_is_the_same_in_any_order(tmp_path: Path) -> None:
    rows = captions(images=400)
    made = validated(tmp_path / "all", rows)["statistics"]["categories"]["languages"]
    assert made["total"] == len(rows)
    assert made["counts"]["en"] > 0.9 * len(rows)
    some, turned = (
        validated(tmp_path / name, ordered, language_sample=100)["statistics"]["categories"]["languages"]
        for name, ordered in (("some", rows), ("turned", rows[::-1]))
    )
    assert 60 < some["total"] < 140
    assert some == turned


@settings(deadline=None)
@given(st.lists(st.integers(-5, 5) | INT64), st.integers(1, 5), st.integers(1, 7))
def test_keys_are_counted_however_they_are_parted(numbers: list[int], parts: int, at_a_time: int) -> None:
    with pytest.MonkeyPatch.context() as patch, TemporaryDirectory() as folder:
        patch.setattr(keys_module, "_ADDED_AT_A_TIME", at_a_time)
        keys = Keys(Path(folder) / "keys", parts)
        for number in numbers:
            keys.add(number, ~number)
        records = [record for group in keys.groups() for record in group.tolist()]
    assert {key: count for key, count, _ in records} == Counter(numbers)
    assert len(records) == len(set(numbers))
    assert all(note == ~key for key, _, note in records)


@given(st.lists(st.integers(0, 50).map(str)), st.integers(1, 10))
def test_of_too_many_values_the_most_frequent_are_counted_within_the_error(values: list[str], kept: int) -> None:
    frequent = Frequent(kept)
    for value in values:
        frequent.update([value])
    true, counted = Counter(values), frequent.most_common(1000)
    assert frequent.total == len(values)
    assert frequent.error <= len(values) / (kept + 1)
    assert len(counted) <= 2 * kept
    for value, count in true.items():
        assert count - frequent.error <= counted.get(value, 0) <= count


@given(st.integers(0, 10**9))
def test_a_number_is_in_its_bin(value: int) -> None:
    low = bin_of(value)
    assert low <= value < next_bin(low)
    assert next_bin(low) - low <= max(1, value / 8)
    assert bin_of(low) == low
    assert bin_of(next_bin(low)) == next_bin(low)


@given(COUNTS)
def test_numbers_are_summarised(counts: dict[int, int]) -> None:
    numbers, values = Numbers.of(Counter(counts)), sorted(Counter(counts).elements())
    assert (numbers.count, numbers.minimum, numbers.maximum) == (len(values), values[0], values[-1])
    assert numbers.mean == pytest.approx(sum(values) / len(values))
    assert numbers.median == values[math.ceil(len(values) / 2) - 1]
    assert sum(numbers.bins.values()) == len(values)


# Schema and drift. --------------------------------------------------------------------------------------------------


def distribution(counts: dict[str, int]) -> Categories:
    frequent = Frequent(1000)
    frequent.update(Counter(counts).elements())
    return Categories.of("hosts", frequent)


@st.composite
def statistics(draw: Callable[[Any], Any]) -> Statistics:
    numbers = {name: Numbers.of(Counter(draw(COUNTS))) for name in NUMBERS}
    values = st.dictionaries(st.sampled_from(["a", "b", "unknown", "undecided", "<"]), st.integers(1, 50))
    total = numbers["words_per_caption"].count
    some = st.integers(0, total)
    return Statistics(
        total, draw(st.integers(1, total)), numbers,
        {name: distribution(draw(values)) for name in CATEGORIES},
        {name: draw(some) for name in ("ids", "urls", "captions")}, [("x", 2)], [],
    )  # fmt: skip


@given(statistics())
def test_captions_fit_the_schema_that_is_inferred_of_them(found: Statistics) -> None:
    schema = infer(found)
    # Made up, more may be twice than there are.
    assert [each for each in anomalies(found, schema, []) if found.shares.get(each.name, 0) <= 1] == []
    assert Schema.from_json(schema.to_json()) == schema
    assert Statistics.from_json(found.to_json()) == found
    assert not [drift for drift in drifts(found, found, schema, ValidateParameters()) if drift.distance]


@given(statistics(), statistics())
def test_distances_are_distances(one: Statistics, other: Statistics) -> None:
    for name in NUMBERS:
        there, back = (divergence(*pair) for pair in _both_ways(one.numbers[name], other.numbers[name]))
        assert there == pytest.approx(back)
        assert 0 <= there <= 1
        assert (there < 1e-9) == (shares(one.numbers[name].bins) == pytest.approx(shares(other.numbers[name].bins)))
    for name in CATEGORIES:
        there, back = (largest_change(*pair)[1] for pair in _both_ways(one.categories[name], other.categories[name]))
        assert there == back <= 1


def _both_ways(one: Any, other: Any) -> tuple[tuple[Any, Any], tuple[Any, Any]]:
    return (one, other), (other, one)


def shares(counts: dict[int, int]) -> dict[int, float]:
    return {value: count / sum(counts.values()) for value, count in counts.items()}


def test_distances_that_can_be_checked_by_hand() -> None:
    one, other = (Numbers.of(Counter(counts)) for counts in ({1: 1, 2: 1}, {2: 3, 3: 3}))
    # Halves at 1, 2 and at 2, 3; the mean has quarters at 1 and 3.
    assert divergence(one, other) == pytest.approx(0.5)
    assert divergence(one, Numbers.of(Counter({9: 1}))) == pytest.approx(1)
    assert largest_change(distribution({"a": 3, "b": 1}), distribution({"a": 1, "c": 1})) == ("c", 0.5)


STRICT: dict[str, tuple[dict[str, Any], list[str]]] = {
    "a range": ({"numbers": {"words_per_caption": {"minimum": 1, "maximum": 5}}}, ["words_per_caption"]),
    "a list": ({"categories": {"hosts": {"allowed": ["y"]}}}, ["hosts"]),
    "a share of others": ({"categories": {"licenses": {"allowed": [], "max_other_share": 0.99}}}, ["licenses"]),
    "a share": ({"max_shares": {"duplicate_captions": 0.01, "duplicate_ids": 0}}, ["duplicate_captions"]),
    "what fits": (
        {
            "numbers": {"words_per_caption": {"minimum": 3, "maximum": 50}},
            "categories": {"hosts": {"allowed": ["x", "y"]}, "licenses": {"allowed": [], "max_other_share": 1}},
            "max_shares": {"unknown_licenses": 0, "duplicate_captions": 0.1},
        },
        [],
    ),
    "nothing": ({}, []),
}


@pytest.mark.parametrize(("schema", "expected"), STRICT.values(), ids=STRICT.keys())
def test_what_leaves_the_schema_is_an_anomaly(schema: dict[str, Any], expected: list[str], tmp_path: Path) -> None:
    rows = captions()
    rows[-1] = replace(rows[-1], caption=rows[0].caption)
    assert named(tmp_path / "data", rows, schema=written(tmp_path, schema)) == expected


WRONG_SCHEMAS: dict[str, tuple[Any, str]] = {
    "no JSON": ("{", "is not JSON: "),
    "no object": ([], "is not a JSON object with some of numbers, categories, max_shares, max_drifts, only_warn"),
    "a section that is none": ({"number": {}}, "the schema has 'number', which is none of numbers, "),
    "a section that is a list": ({"numbers": []}, "numbers is not a JSON object"),
    "a name that is none": ({"max_shares": {"dogs": 0}}, "max_shares has 'dogs', which is none of unknown_licenses, "),
    "no range": ({"numbers": {"words_per_caption": {"minimum": 1}}}, "words_per_caption is not like {"),
    "a range of text": ({"numbers": {"words_per_caption": {"minimum": 1, "maximum": "2"}}}, "no whole number"),
    "no list": ({"categories": {"hosts": {"allowed": "x"}}}, "hosts is not a list of texts"),
    "no share": ({"max_shares": {"duplicate_ids": 2}}, "duplicate_ids has '2', which is no share from 0 to 1"),
    "not a number": ('{"max_shares": {"duplicate_ids": NaN}}', "duplicate_ids has 'nan', which is no share"),
    "no anomaly": ({"only_warn": ["dogs"]}, "only_warn has 'dogs', which is none of "),
    "too deep": ("[" * 100_000, "is not JSON: "),
    "too large": (" " * (1 << 20) + "{}", "is larger than 1 MiB, so it is no schema"),
}


@pytest.mark.parametrize(("schema", "message"), WRONG_SCHEMAS.values(), ids=WRONG_SCHEMAS.keys())
def test_a_schema_that_is_none_is_told_before_anything_is_measured(schema: Any, message: str, tmp_path: Path) -> None:
    file = written(tmp_path, schema)
    with pytest.raises(InvalidInputError) as raised:
        validated(tmp_path / "data", captions(), schema=file)
    assert str(raised.value).startswith(f"--schema: {file}: ")
    assert message in str(raised.value)
    assert "\n" not in str(raised.value)
    assert not (tmp_path / "data" / "validation").exists()


def test_a_schema_is_given_by_its_artifact_or_by_an_edited_copy(tmp_path: Path) -> None:
    schema = validated(tmp_path / "one", captions())["schema"]
    assert schema["categories"]["hosts"] == {"allowed": ["x"], "max_other_share": 0.0}
    assert schema["categories"]["languages"]["allowed"] == ["en"]
    assert schema["numbers"]["captions_per_image"] == {"minimum": 2, "maximum": 2}
    more = captions() + [
        replace(CAPTION, image_id=9000, id=id_, image_url="http://other/1.jpg", caption=f"{SENTENCES[0]} {id_}")
        for id_ in (9000, 9001)
    ]
    made = validated(tmp_path / "two", more, schema=str(tmp_path / "one" / "validation"))
    (anomaly,) = (each for each in made["anomalies"]["anomalies"] if each["name"] == "hosts")
    assert anomaly == {
        "name": "hosts", "seen": "others with a share of 0.04762: 'other' 0.04762",
        "allowed": "'x'; others at most 0", "severity": "error",
    }  # fmt: skip
    assert made["schema"] == schema
    schema["categories"]["hosts"]["allowed"].append("other")
    schema["numbers"] = {}
    assert "hosts" not in named(tmp_path / "three", more, schema=written(tmp_path, schema))


DRIFTS: dict[str, tuple[dict[str, Any], str]] = {
    "licences": ({"image_license": "y"}, "drift_licenses"),
    "splits": ({"split": "test"}, "drift_splits"),
    "hosts": ({"image_url": "http://y/{i}.jpg"}, "drift_hosts"),
    "words": ({"caption": "{caption} Zebra zebra zebra."}, "drift_words"),
    "lengths": ({"caption": "{caption} {caption} {caption}"}, "drift_words_per_caption"),
    "languages": ({"caption": "Der Hund spielt mit dem Ball auf der grünen Wiese, Nummer {i}."}, "drift_languages"),
}


@pytest.mark.parametrize(("changes", "name"), DRIFTS.values(), ids=DRIFTS.keys())
def test_drift_from_a_baseline_is_named_and_the_same_of_its_captions_and_of_its_statistics(
    changes: dict[str, Any], name: str, tmp_path: Path
) -> None:
    before = captions()
    after = [
        replace(row, **{field: text.format(caption=row.caption, i=row.image_id) for field, text in changes.items()})
        for row in before
    ]
    validated(tmp_path / "before", before)
    schema = written(tmp_path, {})
    found = [
        validated(
            tmp_path / kind, after, schema=schema, baseline=str(tmp_path / "before" / kind), max_share_change=0.05
        )["anomalies"]
        for kind in ("ingested", "validation")
    ]
    assert found[0] == found[1]
    assert name in [anomaly["name"] for anomaly in found[0]["anomalies"]]
    assert len(found[0]["drift"]) == len(NUMBERS) + len(CATEGORIES)
    assert named(tmp_path / "loose", after, schema=schema, baseline=str(tmp_path / "before" / "ingested"),
                 max_share_change=1.0, max_divergence=1.0) == []  # fmt: skip


def test_the_schema_says_by_name_how_far_what_may_drift(tmp_path: Path) -> None:
    validated(tmp_path / "before", captions())
    after = [replace(row, image_license="y", split="test") for row in captions()]
    schema = written(tmp_path, {"max_drifts": {"drift_licenses": 1}, "only_warn": ["drift_splits"]})
    made = validated(
        tmp_path / "after", after, schema=schema, baseline=str(tmp_path / "before" / "validation"), on_anomaly="fail"
    )
    assert made["anomalies"]["anomalies"] == [
        {
            "name": "drift_splits", "seen": "the share of 'none' went from 1 to 0: 1", "allowed": "at most 0.1",
            "severity": "warning",
        }
    ]  # fmt: skip


def test_without_change_there_is_no_drift(tmp_path: Path) -> None:
    validated(tmp_path / "before", captions())
    made = validated(tmp_path / "after", captions(), baseline=str(tmp_path / "before" / "validation"))
    assert {row["distance"] for row in made["anomalies"]["drift"]} == {0}
    assert made["anomalies"]["anomalies"] == []


@pytest.mark.parametrize("what", ["another kind", "gone", "changed", "forged"])
def test_a_baseline_that_is_none_is_told_in_one_line(what: str, tmp_path: Path) -> None:
    validated(tmp_path / "before", captions())
    preprocessed = forge(tmp_path / PREPROCESSED, PREPROCESSED).uri
    baseline = {"another kind": preprocessed, "gone": f"{tmp_path}/none"}.get(what, f"{tmp_path}/before/validation")
    file = Path(baseline) / "statistics.json"
    if what in ("changed", "forged"):
        file.write_text(file.read_text().replace('"captions": 40', '"captions": "x"'))
    if what == "forged":
        _sign_again(file)
    with pytest.raises(InvalidInputError) as raised:
        validated(tmp_path / "after", captions(), baseline=baseline)
    expected = {
        "another kind": f"--baseline: {preprocessed}: is an artifact of kind preprocessed; "
        "expected ingested or validation",
        "gone": f"{baseline}: there is no such artifact; check the path",
    }.get(what, f"{file}: differs from its manifest; make the artifact again")
    assert str(raised.value) == expected


def _sign_again(file: Path) -> None:
    """Write the manifest for a file as it is now."""
    manifest = file.with_name("manifest.json")
    rows = json.loads(manifest.read_text())
    for row in rows["files"]:
        if row["path"] == file.name:
            row |= {"bytes": file.stat().st_size, "sha256": hashlib.sha256(file.read_bytes()).hexdigest()}
    manifest.write_text(json.dumps(rows))


# The step. ----------------------------------------------------------------------------------------------------------


def test_the_command_prints_the_uri_warns_and_makes_the_same_bytes_again(ingested: str, tmp_path: Path) -> None:
    schema = written(tmp_path, {"numbers": {"captions_per_image": {"minimum": 6, "maximum": 9}}})
    for name in ("one", "two"):
        done = captionflow("validate", "--ingested", ingested, "--output", f"{tmp_path}/{name}", "--schema", schema)
        assert (done.returncode, done.stdout) == (0, f"{tmp_path}/{name}\n"), done.stderr
        assert "captions_per_image: 5 to 5; allowed: 6 to 9" in done.stderr
    one, two = (content(tmp_path / name) for name in ("one", "two"))
    assert one.keys() == {"statistics.json", "schema.json", "anomalies.json", "report.html", "manifest.json"}
    del one["manifest.json"], two["manifest.json"]
    assert one == two
    artifact = open_artifact(f"{tmp_path}/one", "validation")
    artifact.verify()
    assert artifact.manifest.counts == {"captions": 300, "images": 60, "anomalies": 1}
    assert [(parent.kind, parent.uri) for parent in artifact.manifest.parents] == [
        ("ingested", ingested), ("source", schema),
    ]  # fmt: skip


def test_anomalies_fail_the_step_where_they_shall_and_the_report_stays(tmp_path: Path) -> None:
    limits = {"captions_per_image": {"minimum": 6, "maximum": 9}}
    with pytest.raises(StepFailedError) as raised:
        validated(tmp_path, captions(), schema=written(tmp_path, {"numbers": limits}), on_anomaly="fail")
    report = tmp_path / "validation" / "report.html"
    assert str(raised.value).startswith(f"the captions have anomalies: captions_per_image; see {report}, ")
    assert "captions_per_image" in report.read_text()
    with pytest.raises(InvalidInputError, match="has not finished"):
        open_artifact(str(tmp_path / "validation"))
    lenient = {"numbers": limits, "only_warn": ["captions_per_image"]}
    made = validated(tmp_path, captions(), schema=written(tmp_path, lenient), on_anomaly="fail")
    assert [anomaly["severity"] for anomaly in made["anomalies"]["anomalies"]] == ["warning"]


def test_it_does_not_write_over_what_it_reads(tmp_path: Path) -> None:
    validated(tmp_path, captions())
    output, ingested = str(tmp_path / "validation"), str(tmp_path / "ingested")
    for parameters in ({"baseline": output}, {"schema": output}, {"schema": f"{output}/schema.json"}):
        with pytest.raises(InvalidInputError, match=r"--output: .* which is read; choose another folder"):
            validate(ingested, output, ValidateParameters(**parameters))
    open_artifact(output).verify()


@pytest.mark.security
def test_captions_that_were_changed_are_one_line(tmp_path: Path) -> None:
    uri = ingest_records(captions(), tmp_path)
    file = Path(uri) / "captions.jsonl"
    file.write_bytes(file.read_bytes().replace(b"dogs", b"cats"))
    with pytest.raises(InvalidInputError, match=r"captions\.jsonl: differs from its manifest"):
        validate(uri, str(tmp_path / "out"), ValidateParameters())
    assert not (tmp_path / "out" / "manifest.json").exists()


HOSTILE = "<script>alert(1)</script>\"'><img src=x onerror=alert(1)>{{ 7 * 7 }}\u202e\x1b[2J"


@pytest.mark.security
def test_no_text_can_write_html(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    rows = [
        ImageCaption(i, i, HOSTILE, f"http://{HOSTILE}/1.jpg", image_license=HOSTILE, split="train") for i in range(2)
    ]
    validated(tmp_path / "before", captions())
    schema = written(tmp_path, {"categories": {"licenses": {"allowed": [HOSTILE[::-1]]}}})
    with caplog.at_level(logging.WARNING):
        made = validated(tmp_path / "now", rows, schema=schema, baseline=str(tmp_path / "before" / "validation"))
    html = (tmp_path / "now" / "validation" / "report.html").read_text()
    assert "<script" not in html
    assert "<img" not in html
    assert "{{ 7 * 7 }}" in html
    assert "default-src 'none'; img-src data:; style-src 'unsafe-inline'" in html
    assert not re.search(r"(src|href)=", re.sub(r"&lt;.*?&gt;", "", html))
    assert "\u202e" not in html
    assert not [line for line in caplog.messages if "\x1b" in line or "\n" in line]
    assert made["statistics"]["repeated_captions"] == [[HOSTILE, 2]]


def test_the_report_shows_what_was_found(tmp_path: Path) -> None:
    rows = captions()
    rows[1:3] = [replace(row, caption="the same caption again") for row in rows[1:3]]
    validated(tmp_path / "before", captions(images=30))
    baseline = str(tmp_path / "before" / "ingested")
    validated(tmp_path, rows, schema=written(tmp_path, {"max_shares": {"duplicate_captions": 0}}), baseline=baseline)
    html = (tmp_path / "validation" / "report.html").read_text()
    for shown in ("40 captions of 20 images", "60 captions of 30 images", "duplicate_captions", "at most 0.00 %",
                  "the same caption again", "2 times", "Attribution License", "was 100.00 %", "drift_words",
                  str(tmp_path / "ingested"), "<svg"):  # fmt: skip
        assert shown in html, shown
    assert html.count("<rect") > 20


def test_a_summary_tells_of_anomalies_and_of_runs_from_before_there_was_the_step(ingested: str, tmp_path: Path) -> None:
    shutil.copytree(ingested, tmp_path / "ingested")
    assert summary(str(tmp_path)).startswith("state         failed: there is no validation artifact\n")
    validate(ingested, str(tmp_path / "validation"), ValidateParameters())
    told = summary(str(tmp_path)).splitlines()
    assert told[0] == "state         failed: there is no preprocessed artifact"
    assert told[2:] == [
        f"validation    {tmp_path}/validation  (300 captions, 60 images, 0 anomalies)",
        f"report        {tmp_path}/validation/report.html",
    ]
    shutil.rmtree(tmp_path / "validation")
    forge(tmp_path / PREPROCESSED, PREPROCESSED, counts={"captions": {"in": 3, "out": 2, "rejected": 1}})
    forge(tmp_path / MODEL, MODEL, counts={"epochs": 2, "best_epoch": 1, "weights": 1})
    told = summary(str(tmp_path)).splitlines()
    assert told[0] == "state         failed: there is no evaluation artifact"
    assert [line.split()[0] for line in told[1:]] == ["ingested", "preprocessed", "model"]


def test_the_commands_of_the_docs_work(ingested: str, tmp_path: Path) -> None:
    hand = tmp_path / "artifacts" / "hand"
    shutil.copytree(ingested, hand / "ingested")
    page = ROOT / "docs" / "data.md"
    run(commands("Before anything is fetched", page), tmp_path, ROOT)
    (example,) = re.findall(r"^```json\n(.*?)^```$", recipe("Before anything is fetched", page), re.M | re.S)
    assert Schema.from_json(example.encode()).max_drifts
    for name in ("validation", "validation-2"):
        open_artifact(str(hand / name), "validation").verify()


@settings(max_examples=20, deadline=None)
@given(st.lists(st.tuples(st.text(), st.text(), st.integers(0, 3))))
def test_any_caption_can_be_measured(texts: list[tuple[str, str, int]]) -> None:
    with TemporaryDirectory() as folder:
        rows = [
            replace(
                CAPTION, id=i, image_id=image, caption=caption, image_url=f"http://x/{image}", image_license=licence
            )
            for i, (caption, licence, image) in enumerate([("A dog.", "x", 4), *texts])
        ]
        made = validated(Path(folder), rows, language_sample=5)["statistics"]
    assert made["captions"] == len(rows)
    assert made["duplicates"]["captions"] == len(rows) - len({row.caption for row in rows})
    assert made["categories"]["licenses"]["total"] == len(rows)
    assert len({fingerprint(row.caption) for row in rows}) == len({row.caption for row in rows})

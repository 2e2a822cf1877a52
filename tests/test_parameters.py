"""Parameters: stated once, checked when built, and the same from Python, a form or a manifest."""

import json
from dataclasses import dataclass
from typing import Any, Literal

import pytest
from hypothesis import given
from hypothesis import strategies as st

from captionflow.captioner.parameters import TrainParameters
from captionflow.core.errors import InvalidInputError
from captionflow.core.parameters import Parameters, parameter
from captionflow.evaluation.parameters import EvaluateParameters
from captionflow.preprocess.parameters import PreprocessParameters
from captionflow.sample.parameters import SampleParameters
from captionflow.sources.parameters import IngestParameters
from captionflow.validation.parameters import ValidateParameters

CLASSES = [cls for step in Parameters.__subclasses__() for cls in (step, *step.__subclasses__())]
EVERY = [pytest.param(cls, name, id=f"{cls.__name__}.{name}") for cls in CLASSES for name in cls.json_schema()]
BOUNDED = [
    pytest.param(cls, name, schema, id=f"{cls.__name__}.{name}")
    for cls in CLASSES
    for name, schema in cls.json_schema().items()
    if "minimum" in schema
]
# A list may be given as one text that is a JSON array, so a text that begins like one is none of its items.
CHARACTERS = st.characters(codec="utf-8", exclude_characters="\0")
ITEM = st.text(CHARACTERS).filter(lambda text: not text.startswith("["))


def flag(name: str) -> str:
    return "--" + name.replace("_", "-")


def test_every_step_is_covered() -> None:
    known = {IngestParameters, ValidateParameters, PreprocessParameters, TrainParameters, EvaluateParameters}
    assert {*known, SampleParameters} <= set(CLASSES)


@pytest.mark.parametrize(("cls", "name"), EVERY)
def test_every_parameter_has_a_description_and_a_default_that_fits(cls: type[Parameters], name: str) -> None:
    schema = cls.json_schema()[name]
    default = schema["default"]
    assert schema["description"].strip().endswith(".")
    assert json.loads(json.dumps(schema)) == schema
    assert cls.from_mapping({name: default}) == cls()
    if "minimum" in schema:
        assert schema["minimum"] <= default <= schema["maximum"]
    elif schema["type"] in ("integer", "number"):
        pytest.fail("a number without bounds")
    if "enum" in schema:
        assert default in schema["enum"]


@pytest.mark.parametrize(("cls", "name", "schema"), BOUNDED)
def test_a_number_is_accepted_at_its_bounds_and_refused_beyond(
    cls: type[Parameters], name: str, schema: dict[str, Any]
) -> None:
    step = 1 if schema["type"] == "integer" else 1e-3
    for value in (schema["minimum"], schema["maximum"]):
        # Whatever else it must fit.
        wide = {"width": 4096} if name == "heads" else {}
        assert getattr(cls.from_mapping({name: value, **wide}), name) == value
    for value in (schema["minimum"] - step, schema["maximum"] + step):
        with pytest.raises(InvalidInputError, match=f"^{flag(name)}: "):
            cls.from_mapping({name: value})


@pytest.mark.parametrize(("cls", "name", "schema"), BOUNDED)
@pytest.mark.parametrize("value", [float("nan"), float("inf"), "1", True, None, [1]])
def test_what_is_no_finite_number_is_refused_as_one(
    cls: type[Parameters], name: str, schema: dict[str, Any], value: Any
) -> None:
    with pytest.raises(InvalidInputError, match=f"^{flag(name)}: "):
        cls.from_mapping({name: value})


@pytest.mark.parametrize(
    ("cls", "values", "named"),
    [
        (IngestParameters, {"url_field": "url"}, "--url-field"),
        (IngestParameters, {"url_field": None}, "--url-field"),
        (IngestParameters, {"sources": "a.json"}, "--sources"),
        (IngestParameters, {"sources": [1]}, "--sources"),
        (IngestParameters, {"sources": ["[1]"]}, "--sources"),
        (IngestParameters, {"image_root": {"a": "b"}}, "--image-root"),
        (IngestParameters, {"member": 3}, "--member"),
        (PreprocessParameters, {"resize": "stretch"}, "--resize"),
        (PreprocessParameters, {"image_format": "JPEG"}, "--image-format"),
        (PreprocessParameters, {"output_format": "tfrecord"}, "--output-format"),
        (PreprocessParameters, {"output_format": "webdataset", "image_format": "tensor"}, "--output-format"),
        (PreprocessParameters, {"image_size": 224.5}, "--image-size"),
        (PreprocessParameters, {"split": "0.9,0.1"}, "--split"),
        (PreprocessParameters, {"split": "0.9,0.05,0.06"}, "--split"),
        (PreprocessParameters, {"split": ".,.,."}, "--split"),
        (PreprocessParameters, {"split": "1.5,-0.5,0"}, "--split"),
        (PreprocessParameters, {"split": "nan,nan,nan"}, "--split"),
        (PreprocessParameters, {"split": 1}, "--split"),
        (PreprocessParameters, {"licenses": []}, "--licenses"),
        (PreprocessParameters, {"filters": "all"}, "--filters"),
        (PreprocessParameters, {"licenses": None}, "--licenses"),
        (TrainParameters, {"device": "tpu"}, "--device"),
    ],
)
def test_a_wrong_value_is_refused_in_one_line_that_names_the_flag(
    cls: type[Parameters], values: dict[str, Any], named: str
) -> None:
    with pytest.raises(InvalidInputError, match=f"^{named}: ") as raised:
        cls.from_mapping(values)
    assert "\n" not in str(raised.value)


def test_a_broken_json_array_is_refused_and_names_the_flag() -> None:
    with pytest.raises(InvalidInputError, match="--sources"):
        IngestParameters.from_mapping({"sources": ['["a.json"']})


@pytest.mark.parametrize(
    "given", [["a.json", "b.json"], ("a.json", "b.json"), ['["a.json", "b.json"]'], ["a.json", '["b.json"]']]
)
def test_a_list_comes_as_a_list_or_as_the_text_of_a_json_array(given: Any) -> None:
    assert IngestParameters.from_mapping({"sources": given}).sources == ("a.json", "b.json")


@pytest.mark.parametrize("given", [None, [], ["[]"]])
def test_a_list_left_empty_in_a_form_is_empty(given: Any) -> None:
    assert IngestParameters.from_mapping({"image_root": given}).image_root == ()


def test_an_integer_will_do_for_a_float_and_an_empty_text_for_none() -> None:
    timeout = PreprocessParameters.from_mapping({"fetch_timeout": 5}).fetch_timeout
    assert (timeout, type(timeout)) == (5.0, float)
    assert IngestParameters.from_mapping({"member": ""}).member is None


def test_parameters_of_other_steps_are_passed_over() -> None:
    form = {"epochs": 3, "image_size": 64, "anything": object()}
    assert TrainParameters.from_mapping(form) == TrainParameters(epochs=3)
    assert PreprocessParameters.from_mapping(form) == PreprocessParameters(image_size=64)


@pytest.mark.parametrize("split", ["1,0,0", "0.8,0.1,0.1", "0,0,1", "0.333333,0.333333,0.333334"])
def test_split_fractions_are_the_three_numbers(split: str) -> None:
    assert PreprocessParameters(split=split).split_fractions == tuple(map(float, split.split(",")))


@given(
    st.builds(
        IngestParameters,
        sources=st.lists(ITEM).map(tuple),
        member=st.none() | st.text(CHARACTERS, min_size=1),
        url_field=st.sampled_from(["coco_url", "flickr_url"]),
        image_root=st.lists(ITEM).map(tuple),
        max_reject_ratio=st.floats(0, 1),
    )
    | st.builds(
        PreprocessParameters,
        licenses=st.lists(ITEM, min_size=1).map(tuple),
        image_size=st.integers(2, 128).map(lambda n: 16 * n),
        resize=st.sampled_from(["squash", "crop", "pad"]),
        fetch_timeout=st.floats(0.1, 600),
    )
    | st.builds(TrainParameters, learning_rate=st.floats(1e-7, 1), seed=st.integers(0, 2**32 - 1))
)
def test_parameters_survive_json(parameters: Parameters) -> None:
    text = json.dumps(parameters.to_json())
    assert type(parameters).from_mapping(json.loads(text)) == parameters


@dataclass(frozen=True, kw_only=True)
class Deployed(Parameters):
    """One field of each type."""

    a_text: str = parameter("x", "Text.")
    an_option: str | None = parameter(None, "Text or none.")
    a_choice: Literal["one", "two"] = parameter("one", "A choice.")
    a_count: int = parameter(1, "A count.", minimum=0, maximum=9)
    a_share: float = parameter(0.5, "A share.", minimum=0.0, maximum=2.0)
    a_switch: bool = parameter(False, "A switch.")
    a_list: tuple[str, ...] = parameter((), "A list.")


def test_a_deployment_gives_values_as_text_in_its_environment(monkeypatch: pytest.MonkeyPatch) -> None:
    assert Deployed.from_environment() == Deployed()
    texts = {"A_TEXT": "7", "AN_OPTION": "8", "A_CHOICE": "two", "A_COUNT": "3", "A_SHARE": "1", "A_LIST": "p=q  r"}
    for name, text in {**texts, "A_SWITCH": "true"}.items():
        monkeypatch.setenv(f"CAPTIONFLOW_{name}", text)
    assert Deployed.from_environment() == Deployed(
        a_text="7", an_option="8", a_choice="two", a_count=3, a_share=1.0, a_switch=True, a_list=("p=q", "r")
    )
    monkeypatch.setenv("CAPTIONFLOW_A_TEXT", "")
    assert Deployed.from_environment().a_text == "x"


@pytest.mark.parametrize(
    ("name", "text"),
    [("A_COUNT", "many"), ("A_COUNT", "10"), ("A_SHARE", "NaN"), ("A_CHOICE", "3"), ("A_SWITCH", "no")],
)
def test_a_wrong_text_there_is_told_by_its_variable(monkeypatch: pytest.MonkeyPatch, name: str, text: str) -> None:
    monkeypatch.setenv(f"CAPTIONFLOW_{name}", text)
    with pytest.raises(InvalidInputError, match=f"^CAPTIONFLOW_{name}: "):
        Deployed.from_environment()

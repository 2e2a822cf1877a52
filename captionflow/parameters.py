"""The parameters of every step: names, defaults, units, bounds and meaning, stated once.

The CLI's flags and the Airflow form are derived from these classes, so this module imports
nothing but the standard library.
"""

import json
import os
import re
from collections.abc import Iterable, Mapping
from dataclasses import asdict, dataclass, field, fields
from itertools import chain
from types import NoneType, UnionType
from typing import Any, Literal, Self, get_args, get_origin, get_type_hints

from captionflow.errors import InvalidInputError

URI, FETCHED, HOST = "uri", "fetched", "host"
"""What a parameter's value reaches, which its schema tells as `reaches`: a path or URI; the same, or what http and
https fetch from public addresses; a host. In Airflow a run reaches only what its deployment opened (`reach`)."""

# Halves of surrogate pairs, by which Python spells bytes that are no UTF-8, and the null that ends C's strings.
_NO_TEXT = re.compile("[\ud800-\udfff\0]")

_JSON_TYPES = {str: "string", int: "integer", float: "number", bool: "boolean", NoneType: "null"}


def parameter(default: Any, description: str, **schema: Any) -> Any:
    """Declare a parameter.

    Args:
        schema: words of JSON Schema (minimum, maximum, multipleOf, pattern, examples), `envvar`, the environment
            variable that the command line takes it from, and `reaches`, see `URI`.
    """
    return field(default=default, metadata={"description": description, **schema})


def variable(name: str) -> str:
    """Return the environment variable by which a deployment of Airflow sets a parameter."""
    return f"CAPTIONFLOW_{name.upper()}"


@dataclass(frozen=True, kw_only=True)
class Parameters:
    """Base of a step's parameters. Building one checks every value.

    Raises:
        InvalidInputError: a value is of the wrong type or out of bounds; the message names the flag.
    """

    def __post_init__(self) -> None:
        for name, schema in self.json_schema().items():
            _check(_flag(name), getattr(self, name), schema)

    @classmethod
    def from_mapping(cls, values: Mapping[str, Any]) -> Self:
        """Pick this step's parameters out of `values`, in Python's types or in JSON's."""
        hints = get_type_hints(cls)
        given = {f.name: values[f.name] for f in fields(cls) if f.name in values}
        return cls(**{name: _from_json(name, hints[name], value) for name, value in given.items()})

    @classmethod
    def from_environment(cls, **defaults: Any) -> Self:
        """Take each value from its environment `variable`, if that is set and not empty; a list is parted by spaces.

        Args:
            defaults: other ones than the declared, by name.

        Raises:
            InvalidInputError: a value is of the wrong type or out of bounds; the message names the variable.
        """
        hints, given = get_type_hints(cls), defaults
        for name, schema in cls.json_schema().items():
            if text := os.environ.get(variable(name)):
                given[name] = _from_text(name, hints[name], text)
                _check(variable(name), given[name], schema)
        return cls(**given)

    @classmethod
    def json_schema(cls) -> dict[str, dict[str, Any]]:
        """Return name → JSON Schema with `default` and `description`, in the order of declaration."""
        hints = get_type_hints(cls)
        return {f.name: {**_type_schema(hints[f.name], f.default), **f.metadata} for f in fields(cls)}

    def to_json(self) -> dict[str, Any]:
        """Return the values as JSON holds them (tuples become lists)."""
        return {name: list(v) if isinstance(v, tuple) else v for name, v in asdict(self).items()}

    def to_options(self) -> list[str]:
        """Return the values as the command line takes them: `from_mapping` makes the same of what it reads there."""
        return options(self.to_json())


def _type_schema(hint: Any, default: Any) -> dict[str, Any]:
    if get_origin(hint) is tuple:
        # A form sends null for a list left empty.
        kind: Any = "array" if default else ["array", "null"]
        return {"type": kind, "items": {"type": "string"}, "default": list(default)}
    if get_origin(hint) is Literal:
        return {"type": "string", "enum": list(get_args(hint)), "default": default}
    kinds = [_JSON_TYPES[t] for t in (get_args(hint) if isinstance(hint, UnionType) else (hint,))]
    return {"type": kinds[0] if len(kinds) == 1 else sorted(kinds), "default": default}


def _from_json(name: str, hint: Any, value: Any) -> Any:
    if get_origin(hint) is tuple and (value is None or isinstance(value, (list, tuple))):
        return items(name, value or ())
    if hint is float and isinstance(value, int) and not isinstance(value, bool):
        try:
            return float(value)
        except OverflowError as error:
            raise InvalidInputError(f"{_flag(name)}: the number is too large") from error
    if isinstance(hint, UnionType) and value == "":
        return None
    return value


def _from_text(name: str, hint: Any, text: str) -> Any:
    """Read a value of any type but text as JSON; what is none is left to the check to refuse."""
    if get_origin(hint) is tuple:
        return tuple(text.split())
    if str in (hint, *get_args(hint)) or get_origin(hint) is Literal:
        return text
    try:
        return _from_json(name, hint, json.loads(text))
    except ValueError:
        return text


def items(name: str, values: Iterable[Any]) -> tuple[Any, ...]:
    """Return a list parameter's items: a value may be one text, a JSON array, from where only texts can be passed.

    Raises:
        InvalidInputError: a value begins like a JSON array and is none.
    """
    return tuple(chain.from_iterable(_items(name, value) for value in values))


def _items(name: str, item: Any) -> Any:
    if isinstance(item, str) and item.startswith("["):
        try:
            found = json.loads(item)
        except (ValueError, RecursionError) as error:
            raise InvalidInputError(
                f"{_flag(name)}: {item[:100]!r} begins like a JSON array and is none: {error}"
            ) from error
        # Values are read again by each process that they are passed to: none may come apart only there.
        if any(isinstance(inner, str) and inner.startswith("[") for inner in found):
            raise InvalidInputError(f"{_flag(name)}: {item[:100]!r} holds a list within a list")
        return found
    return (item,)


def options(values: Mapping[str, Any]) -> list[str]:
    """Return values as command-line options, a list as a JSON array; what is None is left out."""
    texts = {name: json.dumps(value) if isinstance(value, list) else value for name, value in values.items()}
    return [f"{_flag(name)}={text}" for name, text in texts.items() if text is not None]


def _flag(name: str) -> str:
    return "--" + name.replace("_", "-")


def _check(flag: str, value: Any, schema: dict[str, Any]) -> None:
    _check_text(flag, value)
    kinds = schema["type"] if isinstance(schema["type"], list) else [schema["type"]]
    if "array" in kinds:
        if not isinstance(value, tuple) or not all(isinstance(item, str) for item in value):
            raise InvalidInputError(f"{flag}: {value!r} is not a list of texts")
        if len(value) < schema.get("minItems", 0):
            raise InvalidInputError(f"{flag}: give at least {schema['minItems']}")
    elif _JSON_TYPES.get(type(value)) not in kinds:
        raise InvalidInputError(f"{flag}: {value!r} is not of type {' or '.join(kinds)}")
    elif "enum" in schema and value not in schema["enum"]:
        raise InvalidInputError(f"{flag}: {value!r} is none of {', '.join(schema['enum'])}")
    elif "pattern" in schema and value is not None and not _matches(schema["pattern"], value):
        like = schema["default"] or schema["examples"][0]
        raise InvalidInputError(f"{flag}: {value!r} does not look like {like!r}")
    elif "minimum" in schema:
        _check_number(flag, value, schema)


def _check_text(flag: str, value: Any) -> None:
    for text in value if isinstance(value, tuple) else (value,):
        if isinstance(text, str) and _NO_TEXT.search(text):
            raise InvalidInputError(f"{flag}: {text!r} holds a byte that is no UTF-8, or a null")


def _matches(pattern: str, text: str) -> bool:
    # JSON Schema's $ is the end; Python's lets a line feed follow.
    return re.search(re.sub(r"\$$", r"\\Z", pattern), text) is not None


def _check_number(flag: str, value: float, schema: dict[str, Any]) -> None:
    # Written so that NaN, which compares false with everything, is out of bounds too.
    if not schema["minimum"] <= value <= schema["maximum"]:
        raise InvalidInputError(f"{flag}: {value} is not within {schema['minimum']} and {schema['maximum']}")
    if "multipleOf" in schema and value % schema["multipleOf"]:
        raise InvalidInputError(f"{flag}: {value} is not a multiple of {schema['multipleOf']}")


# A name or an IPv4 address, or an IPv6 address with its brackets or without.
_HOST = re.compile(r"[^\s/:@\[\]]+|\[?[0-9A-Fa-f:.]*:[0-9A-Fa-f:.]*:[0-9A-Fa-f:.]*\]?")

COCO_LICENSES = (
    "Attribution-NonCommercial-ShareAlike License",
    "Attribution-NonCommercial License",
    "Attribution-NonCommercial-NoDerivs License",
    "Attribution License",
    "Attribution-ShareAlike License",
    "Attribution-NoDerivs License",
    "No known copyright restrictions",
    "United States Government Work",
)
"""The eight licence names that COCO's files carry, in the order of their COCO ids 1 to 8."""


@dataclass(frozen=True, kw_only=True)
class AccessParameters(Parameters):
    """What is open beside public web addresses, to sources as to images."""

    allow_url_prefix: tuple[str, ...] = parameter(
        (),
        "Sources with http(s) and image URLs under these prefixes may lead to hosts inside the network; image URLs "
        "may also be local files or object stores. All others must be public http(s).",
        reaches=URI,
    )
    allow_host: tuple[str, ...] = parameter(
        (),
        "Hosts inside the network, by name or address, that sources and image URLs with http(s) may lead to.",
        reaches=HOST,
    )

    def __post_init__(self) -> None:
        super().__post_init__()
        for host in self.allow_host:
            if not _HOST.fullmatch(host):
                raise InvalidInputError(
                    f"--allow-host: {host!r} is no host; give its name or address, without scheme and port"
                )


@dataclass(frozen=True, kw_only=True)
class IngestParameters(AccessParameters):
    """Where the captions come from and how they are read."""

    sources: tuple[str, ...] = parameter(
        (),
        "Caption files: COCO JSON (also .gz or .zip), CSV or JSON Lines; path, file://, http(s)://, gs:// or s3://.",
        reaches=FETCHED,
    )
    member: str | None = parameter(None, "Which file to read inside a .zip source that holds several.")
    url_field: Literal["coco_url", "flickr_url"] = parameter("coco_url", "Which URL of a COCO image to use.")
    image_root: tuple[str, ...] = parameter(
        (),
        "Folder (path or URL) that holds the COCO images by file name, used instead of their URLs: "
        "one for all sources, or one for each.",
        reaches=FETCHED,
    )
    max_text_bytes: int = parameter(
        10_000,
        "Longest caption, URL, file name or licence, in bytes of UTF-8; a row with a longer one is rejected.",
        minimum=1,
        maximum=1_000_000,
    )
    max_captions: int = parameter(
        20, "Captions taken of one image, the first in the sources; more are rejected.", minimum=1, maximum=10_000
    )
    max_source_megabytes: int = parameter(
        10_000, "Largest source fetched over the network, in MB.", minimum=1, maximum=1_000_000
    )
    max_source_seconds: float = parameter(
        3600.0, "Seconds that fetching one source over the network may take.", minimum=0.1, maximum=86_400.0
    )
    max_reject_ratio: float = parameter(
        0.5, "Fail when a larger share of the rows than this is rejected.", minimum=0.0, maximum=1.0
    )


@dataclass(frozen=True, kw_only=True)
class PreprocessParameters(AccessParameters):
    """Which captions are kept, how images are fetched, and the form they are stored in."""

    licenses: tuple[str, ...] = parameter(
        (
            "Attribution License",
            "Attribution-ShareAlike License",
            "No known copyright restrictions",
            "United States Government Work",
        ),
        "Image licences to keep, with or without the word 'License'; * keeps all.",
        examples=["*", *COCO_LICENSES],
        minItems=1,
    )
    image_size: int = parameter(
        224,
        "Height and width of the stored images, in pixels; a multiple of 16, as the captioner needs.",
        minimum=32,
        maximum=2048,
        multipleOf=16,
    )
    resize: Literal["squash", "crop", "pad"] = parameter(
        "squash",
        "squash: ignore the aspect ratio; crop: fill the square and cut the rest; pad: fit inside and fill with black.",
    )
    downscaling: Literal["fast", "exact"] = parameter(
        "fast",
        "fast: decode JPEGs at the smallest scale that suffices and average with a narrow filter; exact: decode in "
        "full and resample with Lanczos, at about twice the time. They differ by less than 2/255 a pixel on average.",
    )
    image_format: Literal["jpeg", "png", "tensor"] = parameter(
        "jpeg", "Stored form; tensor is raw uint8 (3, height, width), read without decoding."
    )
    jpeg_quality: int = parameter(95, "JPEG quality of the stored images.", minimum=1, maximum=100)
    avro_codec: Literal["null", "deflate"] = parameter(
        "null", "Compression of the Avro blocks; worth it for tensor only."
    )
    split: str = parameter(
        "0.9,0.05,0.05",
        "Shares of the images for train, validation and test; they add up to 1.",
        pattern=r"^[0-9.]+,[0-9.]+,[0-9.]+$",
    )
    shard_megabytes: int = parameter(100, "Target size of a shard, in MB.", minimum=1, maximum=4096)
    fetch_concurrency: int = parameter(
        64, "Images being fetched at the same time by one worker.", minimum=1, maximum=1024
    )
    fetch_connect_timeout: float = parameter(10.0, "Seconds to reach a host.", minimum=0.1, maximum=600.0)
    fetch_timeout: float = parameter(
        30.0, "Seconds one attempt at an image may take in all.", minimum=0.1, maximum=600.0
    )
    fetch_total_timeout: float = parameter(
        90.0, "Seconds after which no further attempt at an image is begun or goes on.", minimum=0.1, maximum=3600.0
    )
    fetch_retries: int = parameter(3, "Further attempts at an image after a passing failure.", minimum=0, maximum=10)
    host_concurrency: int = parameter(
        64, "Requests one worker makes to one host at the same time.", minimum=1, maximum=1024
    )
    host_rate: float = parameter(
        0.0, "Requests a second one worker makes to one host; 0 sets no limit.", minimum=0.0, maximum=10_000.0
    )
    host_failures: int = parameter(
        32,
        "Failures in a row after which a host is left alone for a minute; its images become retryable rejects. "
        "0 never does.",
        minimum=0,
        maximum=10_000,
    )
    user_agent: str = parameter(
        "CaptionFlow (image dataset preprocessing)",
        "How the job names itself to web servers; say who you are, in printable ASCII.",
        pattern="^[ -~]+$",
    )
    x_robots_tag: Literal["respect", "ignore"] = parameter(
        "respect", "What to do when a server's X-Robots-Tag says noai or noimageai: respect rejects the image."
    )
    max_image_megabytes: int = parameter(50, "Largest image file accepted, in MB.", minimum=1, maximum=1024)
    max_image_megapixels: int = parameter(64, "Largest picture decoded, in millions of pixels.", minimum=1, maximum=80)
    decode_seconds: float = parameter(
        20.0, "Seconds of CPU time one picture may take to decode.", minimum=0.1, maximum=600.0
    )
    decode_megabytes: int = parameter(2048, "Memory one picture may take to decode, in MB.", minimum=16, maximum=65536)

    def __post_init__(self) -> None:
        super().__post_init__()
        _ = self.split_fractions

    @property
    def split_fractions(self) -> tuple[float, float, float]:
        """The shares of train, val and test."""
        try:
            train, val, test = (float(share) for share in self.split.split(","))
        except ValueError as error:
            raise InvalidInputError(f"--split: {self.split!r} is not three numbers like 0.9,0.05,0.05") from error
        if abs(train + val + test - 1) > 1e-6:
            raise InvalidInputError(f"--split: {self.split} adds up to {train + val + test:g}, not to 1")
        return train, val, test


@dataclass(frozen=True, kw_only=True)
class ReuseParameters(Parameters):
    """What is taken over from earlier runs."""

    reuse: str | None = parameter(
        None, "URI of an earlier preprocessed artifact: images it holds are not fetched again.", reaches=URI
    )


@dataclass(frozen=True, kw_only=True)
class DataflowParameters(Parameters):
    """Where a Dataflow job runs, and as whom."""

    gcp_project_id: str | None = parameter(None, "Google Cloud project of a Dataflow job.")
    region: str | None = parameter(None, "Google Cloud region of a Dataflow job, such as europe-west4.")
    dataflow_staging_root: str | None = parameter(
        None, "Folder in Cloud Storage for the temporary files of a Dataflow job."
    )
    dataflow_service_account: str | None = parameter(
        None, "E-mail of the service account that Dataflow's workers act as; the project's default one if empty."
    )
    dataflow_worker_image: str | None = parameter(
        None, "Image of Dataflow's workers, with this package in Beam's own; it spares installing when a job starts."
    )


@dataclass(frozen=True, kw_only=True)
class BeamParameters(DataflowParameters):
    """Where the preprocess job runs, for callers that do not speak Beam's own options."""

    beam_runner: Literal["DirectRunner", "DataflowRunner", "FlinkRunner", "SparkRunner"] = parameter(
        "DirectRunner", "Where the preprocess job runs; DirectRunner is the machine that starts it."
    )
    beam_args: tuple[str, ...] = parameter((), "Further Beam options, such as --direct_num_workers=2.")


@dataclass(frozen=True, kw_only=True)
class TrainParameters(Parameters):
    """The captioner's size and how it learns."""

    epochs: int = parameter(14, "Passes over the training split, at most.", minimum=1, maximum=10_000)
    batch_size: int = parameter(
        16, "Images in a step; all captions of an image are in the same step.", minimum=1, maximum=4096
    )
    learning_rate: float = parameter(3e-3, "Peak of the learning rate.", minimum=1e-7, maximum=1.0)
    warmup_share: float = parameter(
        0.1, "Share of the steps in which the learning rate rises.", minimum=0.0, maximum=1.0
    )
    weight_decay: float = parameter(0.05, "AdamW's weight decay, of matrices only.", minimum=0.0, maximum=1.0)
    label_smoothing: float = parameter(
        0.1, "Probability given to the other words in the loss.", minimum=0.0, maximum=0.9
    )
    gradient_clip: float = parameter(1.0, "Largest norm of the gradient.", minimum=1e-3, maximum=1e3)
    patience: int = parameter(
        10, "Epochs without a better validation loss before training stops.", minimum=1, maximum=10_000
    )
    width: int = parameter(
        96, "Length of the feature vectors; a multiple of 4 and of --heads.", minimum=8, maximum=4096
    )
    encoder_depth: int = parameter(1, "Residual blocks in each stage of the image encoder.", minimum=0, maximum=48)
    decoder_depth: int = parameter(2, "Transformer layers over the caption.", minimum=1, maximum=48)
    heads: int = parameter(4, "Attention heads of a layer.", minimum=1, maximum=64)
    dropout: float = parameter(
        0.0, "Share of activations dropped while training; worth 0.1 when epochs are many.", minimum=0.0, maximum=0.9
    )
    min_count: int = parameter(
        1, "How often a word must occur in the training split to be learnt.", minimum=1, maximum=1000
    )
    max_vocabulary: int = parameter(
        20_000,
        "Words learnt, at most: the most frequent ones. Memory grows with it, and nobody who writes captions should "
        "decide how far.",
        minimum=1,
        maximum=1_000_000,
    )
    max_caption_length: int = parameter(
        32, "Longest caption, in tokens, start and end included.", minimum=4, maximum=512
    )
    loader_workers: int = parameter(0, "Processes that decode images beside the training one.", minimum=0, maximum=64)
    device: Literal["auto", "cpu", "cuda", "mps"] = parameter(
        "auto", "Where to train; auto takes CUDA, then MPS, then the CPU."
    )
    seed: int = parameter(0, "Seed of the weights, the order of the images and dropout.", minimum=0, maximum=2**32 - 1)

    def __post_init__(self) -> None:
        super().__post_init__()
        if self.width % 4 or self.width % self.heads:
            raise InvalidInputError(f"--width: {self.width} is not a multiple of 4 and of --heads, {self.heads}")


@dataclass(frozen=True, kw_only=True)
class CaptionParameters(Parameters):
    """How captions are generated."""

    beam_size: int = parameter(1, "Beams of the caption search; 1 is greedy.", minimum=1, maximum=32)


@dataclass(frozen=True, kw_only=True)
class EvaluateParameters(CaptionParameters):
    """How captions are generated and how many of them the report shows."""

    evaluate_batch_size: int = parameter(32, "Images captioned at a time.", minimum=1, maximum=4096)
    gallery_size: int = parameter(
        12, "Pictures shown in the report at each end, best and worst.", minimum=1, maximum=500
    )


@dataclass(frozen=True, kw_only=True)
class SampleParameters(Parameters):
    """The built-in dataset."""

    images: int = parameter(900, "Pictures to draw; each has five captions.", minimum=1, maximum=1_000_000)
    seed: int = parameter(0, "Seed of the scenes.", minimum=0, maximum=2**32 - 1)

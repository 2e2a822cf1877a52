"""Which captions are kept, how their images are fetched, and the form they are stored in."""

from dataclasses import dataclass
from typing import Any, Literal

from captionflow.core.errors import InvalidInputError
from captionflow.core.languages import LANGUAGES
from captionflow.core.licenses import COCO_LICENSES
from captionflow.core.parameters import URI, Parameters, RejectParameters, parameter
from captionflow.core.sample_rows import ending_of
from captionflow.core.shards import SHARD_FORMATS
from captionflow.images.formats import HASH_BITS
from captionflow.images.parameters import (
    HashParameters,
    ImageParameters,
    PictureFilterParameters,
    StoredImageParameters,
    bound,
)
from captionflow.preprocess.score_bounds import SCORER_NAME, ScoreBound
from captionflow.web.parameters import AccessParameters

PRESETS: dict[str, dict[str, Any]] = {
    "none": {},
    "basic": {
        "min_words": 3, "min_characters": 6, "languages": ("en",), "min_side": 200, "max_aspect_ratio": 3.0,
    },
}  # fmt: skip
"""Preset of filters → the bounds of those that it sets, by parameter.

basic is that of Gadre et al. 2023, "DataComp: In search of the next generation of multimodal datasets".
"""


def _written(bound: float | tuple[str, ...]) -> str:
    return " ".join(bound) if isinstance(bound, tuple) else f"{bound:g}"


@dataclass(frozen=True, kw_only=True)
class FilterParameters(Parameters):
    """Which captions are kept."""

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
        common=True,
    )
    caption_text: Literal["plain", "raw"] = parameter(
        "plain",
        "What the model reads of a caption. plain: in lower case, without punctuation and URLs; raw: as ingested. The "
        "caption as ingested is stored in both cases.",
    )
    filters: str = parameter(
        "none",
        "Preset of the filters' bounds; one that is given by its own parameter goes before it. basic, as DataComp's: "
        + ", ".join(f"{name} {_written(preset)}" for name, preset in PRESETS["basic"].items())
        + ".",
        enum=[*PRESETS],
    )
    min_words: int = bound(0, "Words that a caption must have at least.", 1000)
    max_words: int = bound(0, "Words that a caption may have at most.", 1000)
    min_characters: int = bound(0, "Characters that a caption must have at least.", 10_000)
    max_symbol_share: float = bound(
        0.0, "Largest share of digits, punctuation and symbols among a caption's characters.", 1.0
    )
    max_repetition: float = bound(
        0.0, "Largest share of a caption's pairs of neighbouring words that occurred in it before.", 1.0
    )
    min_own_words: int = bound(
        0,
        "Words that a caption must have at least beside those of its picture's file name. 1 rejects a caption that is "
        "the file name.",
        1000,
    )
    languages: tuple[str, ...] = parameter(
        (),
        "Languages of the captions to keep, by their codes of ISO 639, such as en; * keeps all. A caption that no "
        "language is likely for is kept. Empty: as the filters' preset says.",
        examples=["*", *LANGUAGES],
    )
    max_same_caption: int = bound(
        0, "Images that may have the same caption; one that more of them have is rejected on all.", 10_000
    )

    def __post_init__(self) -> None:
        super().__post_init__()
        for language in self.languages:
            if language not in (known := ("*", *LANGUAGES)):
                raise InvalidInputError(f"--languages: {language[:100]!r} is none of {', '.join(known)}")


@dataclass(frozen=True, kw_only=True)
class ScoreParameters(Parameters):
    """Which pictures are kept by the numbers that scorers of your own give them."""

    scorers: tuple[str, ...] = parameter(
        (), "Names of installed scorers whose numbers are stored with each picture, such as clip."
    )
    score_bounds: tuple[str, ...] = parameter(
        (),
        "Bounds of the scores that are kept, such as clip>=0.28 or nsfw<=0.5. A scorer that is named here need not be "
        "named a second time.",
    )

    def __post_init__(self) -> None:
        super().__post_init__()
        for name in self.scorers:
            if not SCORER_NAME.fullmatch(name):
                raise InvalidInputError(
                    f"--scorers: {name[:100]!r} is no name of a scorer; they are of small letters, digits and _"
                )
        _ = self.parsed_score_bounds

    @property
    def parsed_score_bounds(self) -> tuple[ScoreBound, ...]:
        """The bounds, in their order."""
        return tuple(map(ScoreBound.parse, self.score_bounds))

    @property
    def scorer_names(self) -> tuple[str, ...]:
        """The scorers that are needed, each once, in the order of their names."""
        return tuple(sorted({*self.scorers, *(bound.scorer for bound in self.parsed_score_bounds)}))


@dataclass(frozen=True, kw_only=True)
class DuplicateParameters(HashParameters):
    """Which pictures count as the same, and what becomes of those that are left out."""

    max_duplicate_distance: int = parameter(
        12,
        f"Bits, of {HASH_BITS}, in which the perceptual hashes of two pictures may differ that are near duplicates.",
        minimum=0,
        maximum=HASH_BITS // 4,
    )
    duplicate_captions: Literal["drop", "join"] = parameter(
        "drop",
        "What becomes of the captions of a picture that is left out. drop: they are rejects; join: they go to the one "
        "that stays, if that is in the same split.",
    )
    exclude: str | None = parameter(
        None,
        "URI of a preprocessed artifact, such as a test set: none of its pictures stays in train or val. It needs "
        "--duplicates.",
        reaches=URI,
    )


@dataclass(frozen=True, kw_only=True)
class FormatParameters(Parameters):
    """The format of the shards."""

    output_format: str = parameter(
        "avro",
        "Format of the shards. avro: all in one record; webdataset: tar files that hold KEY.jpg, KEY.txt and KEY.json; "
        "parquet: a row for each image.",
        enum=[*SHARD_FORMATS],
    )
    avro_codec: Literal["null", "deflate"] = parameter(
        "null", "Compression of the Avro blocks; worth it for tensor only."
    )


@dataclass(frozen=True, kw_only=True)
class ShardParameters(FormatParameters):
    """How the images are divided into splits and shards."""

    split: str = parameter(
        "0.9,0.05,0.05",
        "Shares of the images for train, validation and test; they add up to 1. Of images whose source gives several "
        "splits, as val+test=URI does, each of these gets a part in proportion to its share.",
        pattern=r"^[0-9.]+,[0-9.]+,[0-9.]+$",
        common=True,
    )
    shard_megabytes: int = parameter(100, "Target size of a shard, in MB.", minimum=1, maximum=4096)

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
class PreprocessParameters(
    ImageParameters,
    ShardParameters,
    RejectParameters,
    DuplicateParameters,
    StoredImageParameters,
    ScoreParameters,
    PictureFilterParameters,
    FilterParameters,
    AccessParameters,
):
    """The parameters of the preprocess job; the fields are those of the bases, the last first.

    Each bound of a filter that is 0 becomes that of the preset, so that a manifest tells what was asked.
    """

    def __post_init__(self) -> None:
        super().__post_init__()
        if self.output_format == "webdataset" and not ending_of(self.image_format):
            raise InvalidInputError(
                f"--output-format: webdataset holds picture files, and --image-format {self.image_format} makes none; "
                "choose jpeg, png or another format of shards"
            )
        for name, preset in PRESETS[self.filters].items():
            if not getattr(self, name):
                object.__setattr__(self, name, preset)


@dataclass(frozen=True, kw_only=True)
class ReuseParameters(Parameters):
    """What is taken over from earlier runs."""

    reuse: str | None = parameter(
        None,
        "URI of an earlier preprocessed artifact: images it holds are not fetched again.",
        reaches=URI,
        common=True,
    )

"""The metadata of a dataset in Croissant's format, https://docs.mlcommons.org/croissant/docs/croissant-spec.html.

What only its publisher knows is left out: who made it, when it was published, how to cite it.
"""

import hashlib
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

from captionflow.core.manifest import FileInfo
from captionflow.preprocess.page import Split
from captionflow.preprocess.parameters import PreprocessParameters
from captionflow.preprocess.statistics import LICENSES, OTHERS, Statistics, most_common

CROISSANT = "croissant.json"
"""The file of a preprocessed artifact that holds its metadata."""

_VERSION = "http://mlcommons.org/croissant/1.0"
# Each shard beyond is only told of in the manifest, which has all sizes and digests.
_MOST_SHARDS = 1000
_MOST_LICENSES = 20
_MEANINGS = {"train": "TrainingSplit", "val": "ValidationSplit", "test": "TestSplit"}

# As the specification has it.
_CONTEXT = {
    "@language": "en",
    "@vocab": "https://schema.org/",
    "citeAs": "cr:citeAs",
    "column": "cr:column",
    "conformsTo": "dct:conformsTo",
    "cr": "http://mlcommons.org/croissant/",
    "rai": "http://mlcommons.org/croissant/RAI/",
    "data": {"@id": "cr:data", "@type": "@json"},
    "dataType": {"@id": "cr:dataType", "@type": "@vocab"},
    "dct": "http://purl.org/dc/terms/",
    "equivalentProperty": "cr:equivalentProperty",
    "examples": {"@id": "cr:examples", "@type": "@json"},
    "extract": "cr:extract",
    "field": "cr:field",
    "fileProperty": "cr:fileProperty",
    "fileObject": "cr:fileObject",
    "fileSet": "cr:fileSet",
    "format": "cr:format",
    "includes": "cr:includes",
    "isLiveDataset": "cr:isLiveDataset",
    "jsonPath": "cr:jsonPath",
    "key": "cr:key",
    "md5": "cr:md5",
    "parentField": "cr:parentField",
    "path": "cr:path",
    "recordSet": "cr:recordSet",
    "references": "cr:references",
    "regex": "cr:regex",
    "repeated": "cr:repeated",
    "replace": "cr:replace",
    "samplingRate": "cr:samplingRate",
    "sc": "https://schema.org/",
    "separator": "cr:separator",
    "source": "cr:source",
    "subField": "cr:subField",
    "transform": "cr:transform",
}


@dataclass(frozen=True)
class _Field:
    """A field of the records: its type, its column, what is taken out of that, and whether it has several values."""

    name: str
    description: str
    type: str
    column: str
    json_path: str = ""
    repeated: bool = False


@dataclass(frozen=True)
class _Form:
    """What metadata say of a format of shards: its MIME type, and the fields that Croissant's readers find in it."""

    mime: str
    fields: tuple[_Field, ...] = ()


_FORMS = {
    ".avro": _Form("application/avro"),
    ".tar": _Form("application/x-tar"),
    ".parquet": _Form(
        "application/x-parquet",
        (
            _Field("image_id", "Id of the image.", "sc:Integer", "image_id"),
            _Field("image", "The picture.", "sc:ImageObject", "image", "bytes"),
            _Field("captions", "The captions, as they were ingested.", "sc:Text", "captions", "raw", repeated=True),
            _Field("texts", "The captions, as the model reads them.", "sc:Text", "captions", "text", repeated=True),
            _Field("url", "Where the picture was fetched.", "sc:Text", "url"),
            _Field("license", "The picture's licence, as its source names it.", "sc:Text", "image_license"),
        ),
    ),
}
"""Ending of a shard's path → what is said of it. Croissant has no way into Avro, and mlcroissant none into tars."""


def croissant(splits: Sequence[Split], shards: Sequence[FileInfo], parameters: PreprocessParameters) -> dict[str, Any]:
    """Return the metadata, a JSON-LD object.

    Args:
        shards: their files, in order. Of more than a thousand the first are described, and all by a pattern.
    """
    suffix = f".{shards[0].path.rpartition('.')[2]}"
    form = _FORMS[suffix]
    digest = hashlib.sha256("".join(shard.sha256 for shard in shards).encode()).hexdigest()
    licenses = Statistics.merged(split.statistics for split in splits).numbers.get(LICENSES, {})
    return {
        "@context": _CONTEXT,
        "@type": "sc:Dataset",
        "conformsTo": _VERSION,
        "name": f"captioned-images-{digest[:12]}",
        "description": _description(splits, parameters),
        "license": ["others" if name == OTHERS else name for name in most_common(licenses, _MOST_LICENSES)],
        "url": "./",
        "version": "1.0.0",
        "isLiveDataset": False,
        "distribution": [
            _pattern(splits, suffix, form),
            *(_shard(file, form) for file in shards[:_MOST_SHARDS]),
        ],
        "recordSet": [_splits(splits), *([_records(form)] if form.fields else [])],
    }


def _description(splits: Sequence[Split], parameters: PreprocessParameters) -> str:
    images, captions = (sum(split.counts[f"{unit}_out"] for split in splits) for unit in ("images", "captions"))
    parts = ", ".join(f"{split.counts['images_out']} in {split.name}" for split in splits)
    side = parameters.image_size
    return (
        f"{images} images with {captions} captions ({parts}), stored at {side} × {side} pixels as "
        f"{parameters.image_format}; preprocessed by CaptionFlow. The licences are those of the images."
    )


def _pattern(splits: Sequence[Split], suffix: str, form: _Form) -> dict[str, Any]:
    return {
        "@type": "cr:FileSet",
        "@id": "shards",
        "name": "shards",
        "description": "All shards of all splits.",
        "encodingFormat": form.mime,
        "includes": [f"{split.name}/*{suffix}" for split in splits],
    }


def _shard(file: FileInfo, form: _Form) -> dict[str, Any]:
    return {
        "@type": "cr:FileObject",
        "@id": file.path,
        "name": file.path,
        "contentUrl": file.path,
        "contentSize": f"{file.bytes} B",
        "encodingFormat": form.mime,
        "sha256": file.sha256,
    }


def _splits(splits: Sequence[Split]) -> dict[str, Any]:
    return {
        "@type": "cr:RecordSet",
        "@id": "splits",
        "name": "splits",
        "description": "The splits, and how many images each has.",
        "dataType": "cr:Split",
        "key": {"@id": "splits/name"},
        "field": [
            _inline("splits/name", "Name of the split, and of the folder of its shards.", "sc:Text"),
            _inline("splits/url", "What the split is for.", "sc:URL"),
            _inline("splits/images", "Number of images.", "sc:Integer"),
        ],
        "data": [
            {
                "splits/name": split.name,
                "splits/url": f"cr:{_MEANINGS[split.name]}",
                "splits/images": split.counts["images_out"],
            }
            for split in splits
        ],
    }


def _inline(id_: str, description: str, type_: str) -> dict[str, Any]:
    return {"@type": "cr:Field", "@id": id_, "name": id_, "description": description, "dataType": type_}


def _records(form: _Form) -> dict[str, Any]:
    split = {
        **_inline("images/split", "The image's split.", "sc:Text"),
        "references": {"field": {"@id": "splits/name"}},
        "source": {
            "fileSet": {"@id": "shards"},
            "extract": {"fileProperty": "fullpath"},
            "transform": {"regex": f"({'|'.join(_MEANINGS)})/[^/]*$"},
        },
    }
    return {
        "@type": "cr:RecordSet",
        "@id": "images",
        "name": "images",
        "description": "The images, each with its captions.",
        "key": {"@id": "images/image_id"},
        "field": [*map(_field, form.fields), split],
    }


def _field(field: _Field) -> dict[str, Any]:
    source: dict[str, Any] = {"fileSet": {"@id": "shards"}, "extract": {"column": field.column}}
    if field.json_path:
        source["transform"] = {"jsonPath": field.json_path}
    repeated = {"repeated": True} if field.repeated else {}
    return {**_inline(f"images/{field.name}", field.description, field.type), **repeated, "source": source}

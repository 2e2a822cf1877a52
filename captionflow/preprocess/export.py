"""Turn a preprocessed artifact into one whose shards are of another format."""

import shutil
from collections import Counter
from collections.abc import Iterator

from tqdm import tqdm

from captionflow.core.artifact import Artifact, open_artifact
from captionflow.core.draft import Draft, begin
from captionflow.core.errors import InvalidInputError
from captionflow.core.manifest import FileInfo
from captionflow.core.records import REJECTS, SPLITS, Sample
from captionflow.core.shards import SHARD_FORMATS, format_of, read_shard, shards_of, write_shard
from captionflow.core.steps import PREPROCESSED
from captionflow.core.uris import resolve
from captionflow.preprocess.parameters import FormatParameters, PreprocessParameters

_CHUNK = 1 << 20
_CAPTIONS = "captions"


def export(preprocessed: str, output: str, parameters: FormatParameters) -> str:
    """Write the images and the rejects of a preprocessed artifact as the artifact at `output`; returns its URI.

    Nothing is fetched or decoded. Splits, shards, counts and all parameters but those of the format stay what they
    were, so that every step that takes the one artifact takes the other.

    Raises:
        InvalidInputError: `preprocessed` is no preprocessed artifact or differs from its manifest, its pictures have a
            form that the format does not hold, or both URIs are the same.
    """
    source = open_artifact(preprocessed, PREPROCESSED)
    if resolve(output) == source.uri:
        raise InvalidInputError(f"--output: {output} is the artifact to export; choose another folder")
    recorded = {**source.manifest.parameters, **parameters.to_json()}
    checked = PreprocessParameters.from_mapping(recorded)
    draft = begin(output, PREPROCESSED, recorded, [source.parent])
    counts = Counter[str]()
    files = [
        _export_shard(source, file, draft, checked, counts)
        for file in tqdm(shards_of(source), "export", unit=" shards", disable=None)
    ]
    _check(source, counts)
    files += [_copy(source, file, draft) for file in source.files(f"{REJECTS}/")]
    draft.commit(files, counts=source.manifest.counts)
    return draft.uri


def _export_shard(
    source: Artifact, file: FileInfo, draft: Draft, parameters: PreprocessParameters, counts: Counter[str]
) -> FileInfo:
    """Write one shard; `counts` holds the images by split, and the captions."""
    name = file.path.removesuffix(format_of(file.path).suffix)
    split = name.partition("/")[0]

    def samples() -> Iterator[Sample]:
        with source.parse(file.path) as shard:
            for sample in read_shard(shard, file.path):
                counts.update({split: 1, _CAPTIONS: len(sample.captions)})
                yield sample

    with draft.output(f"{name}{SHARD_FORMATS[parameters.output_format].suffix}") as out:
        write_shard(out, name, samples(), parameters)
    return out.info


def _check(source: Artifact, counts: Counter[str]) -> None:
    expected = {split: source.count("splits", split, default=0) for split in SPLITS}
    expected[_CAPTIONS] = source.count(_CAPTIONS, "out")
    for name, number in expected.items():
        if counts[name] != number:
            raise InvalidInputError(
                f"{source.uri}: its shards hold {counts[name]} for {name}, its manifest says {number}; "
                "make the artifact again"
            )


def _copy(source: Artifact, file: FileInfo, draft: Draft) -> FileInfo:
    with source.open(file.path) as content, draft.output(file.path) as out:
        shutil.copyfileobj(content, out, _CHUNK)
    return out.info

"""Turn a preprocessed artifact into one whose shards are of another format."""

import shutil
from collections import Counter
from collections.abc import Iterable, Iterator

from tqdm import tqdm

from captionflow.core.artifact import Artifact, open_artifact
from captionflow.core.draft import Draft, begin
from captionflow.core.errors import InvalidInputError
from captionflow.core.manifest import FileInfo
from captionflow.core.records import REJECTS, SPLITS, Sample
from captionflow.core.shards import SHARD_FORMATS, format_of, read_shard, shards_of, write_shard
from captionflow.core.steps import DATASET_PAGE, PREPROCESSED
from captionflow.core.uris import resolve
from captionflow.preprocess.description import metadata_file
from captionflow.preprocess.page import Split
from captionflow.preprocess.parameters import FormatParameters, PreprocessParameters
from captionflow.preprocess.statistics import LICENSES, LONGEST_NAME, Statistics, most_common
from captionflow.preprocess.survey import MOST_NAMES

_CHUNK = 1 << 20


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
    splits = {split: Split(split, Counter(), Statistics()) for split in source.manifest.counts.get("splits", ())}
    shards = []
    for file in tqdm(shards_of(source), "export", unit=" shards", disable=None):
        split = file.path.partition("/")[0]
        written, found = _export_shard(source, file, draft, checked)
        shards.append(written)
        splits[split] = splits[split] + found
    _check(source, splits.values())
    metadata = metadata_file(draft, [splits[split] for split in SPLITS if split in splits], shards, checked)
    # A version without them may have made it.
    same = [*source.files(f"{REJECTS}/"), *source.files(DATASET_PAGE)]
    draft.commit([*shards, metadata, *(_copy(source, file, draft) for file in same)], counts=source.manifest.counts)
    return draft.uri


def _export_shard(
    source: Artifact, file: FileInfo, draft: Draft, parameters: PreprocessParameters
) -> tuple[FileInfo, Split]:
    """Write one shard; returns its file, and what the metadata tell of it."""
    name = file.path.removesuffix(format_of(file.path).suffix)
    counts, licenses = Counter[str](), Counter[str]()

    def samples() -> Iterator[Sample]:
        with source.parse(file.path) as shard:
            for sample in read_shard(shard, file.path):
                counts.update(images_out=1, captions_out=len(sample.captions))
                licenses[sample.image_license[:LONGEST_NAME]] += 1
                yield sample

    with draft.output(f"{name}{SHARD_FORMATS[parameters.output_format].suffix}") as out:
        write_shard(out, name, samples(), parameters)
    return out.info, Split(name.partition("/")[0], counts, Statistics({LICENSES: most_common(licenses, MOST_NAMES)}))


def _check(source: Artifact, splits: Iterable[Split]) -> None:
    found = {split.name: split.counts["images_out"] for split in splits}
    expected = {split: source.count("splits", split) for split in found}
    found["captions"] = sum(split.counts["captions_out"] for split in splits)
    expected["captions"] = source.count("captions", "out")
    for name, number in expected.items():
        if found[name] != number:
            raise InvalidInputError(
                f"{source.uri}: its shards hold {found[name]} for {name}, its manifest says {number}; "
                "make the artifact again"
            )


def _copy(source: Artifact, file: FileInfo, draft: Draft) -> FileInfo:
    with source.open(file.path) as content, draft.output(file.path) as out:
        shutil.copyfileobj(content, out, _CHUNK)
    return out.info

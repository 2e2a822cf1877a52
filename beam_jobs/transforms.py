"""PTransforms of the preprocess job.

Only caption records travel between them: an image is fetched, processed and written inside one
call, so its bytes never cross a shuffle. Not for streaming input: a shard needs all its captions.
"""

from collections import Counter
from collections.abc import Iterable

import apache_beam as beam
from apache_beam.metrics import Metrics

from captionflow.artifacts import Draft, file_system
from captionflow.captions import clean_caption
from captionflow.errors import StepFailed
from captionflow.fetch import Fetcher
from captionflow.parameters import PreprocessParameters
from captionflow.records import ImageCaption, RecordError, Reject, to_json_line
from captionflow.shards import Layout, ShardInfo, ShardKey, write_shard

Record = ImageCaption | Reject


@beam.typehints.with_output_types(Record)
class ReadCaptions(beam.PTransform):
    """Read `captions.jsonl`; a line that is no ImageCaption becomes a Reject."""

    def __init__(self, uri: str) -> None:
        super().__init__()
        self._uri = uri

    def expand(self, pipeline: beam.Pipeline) -> beam.PCollection[Record]:
        """Lines → records."""
        return pipeline | beam.io.ReadFromText(_beam_path(self._uri), coder=beam.coders.BytesCoder()) | beam.Map(parse)


class FilterLicenses(beam.PTransform):
    """Turn captions of images under another licence than `licenses` into Rejects."""

    def __init__(self, licenses: Iterable[str]) -> None:
        super().__init__()
        self._allowed = frozenset(map(license_key, licenses))

    def expand(self, records: beam.PCollection[Record]) -> beam.PCollection[Record]:
        """Records → records."""
        return records | beam.Map(filter_license, self._allowed)


class CleanCaptions(beam.PTransform):
    """Clean the captions; one of which nothing is left becomes a Reject."""

    def expand(self, records: beam.PCollection[Record]) -> beam.PCollection[Record]:
        """Records → records."""
        return records | beam.Map(clean)


class GroupByShard(beam.PTransform):
    """Bring everything known of a shard's images together: the job's one shuffle."""

    def __init__(self, layout: Layout) -> None:
        super().__init__()
        self._layout = layout

    def expand(self, records: beam.PCollection[Record]) -> beam.PCollection[tuple[tuple[str, int, int], Iterable[bytes]]]:
        """Records → (split, index, count) with its records as JSON."""
        return records | "AssignShards" >> beam.Map(assign_shard, self._layout) | beam.GroupByKey()


class WriteShards(beam.PTransform):
    """Make one Avro file and one file of Rejects for each shard."""

    def __init__(self, draft: Draft, parameters: PreprocessParameters) -> None:
        super().__init__()
        self._draft, self._parameters = draft, parameters

    def expand(self, shards: beam.PCollection[tuple[tuple[str, int, int], Iterable[bytes]]]) -> beam.PCollection[ShardInfo]:
        """Shards → ShardInfo."""
        return shards | beam.ParDo(_WriteShard(self._draft, self._parameters))


class CommitManifest(beam.PTransform):
    """Gather what came of every shard and write the manifest, last of all."""

    def __init__(self, draft: Draft, captions: int) -> None:
        super().__init__()
        self._draft, self._captions = draft, captions

    def expand(self, infos: beam.PCollection[ShardInfo]) -> beam.PCollection[str]:
        """ShardInfos → the URI of the artifact, once."""
        return infos | beam.combiners.ToList() | beam.Map(commit, self._draft, self._captions)


def parse(line: bytes) -> Record:
    """Read one line of `captions.jsonl`."""
    try:
        return ImageCaption.from_json(line)
    except RecordError as error:
        return Reject("read", error.reason, str(error))


def license_key(name: str) -> str:
    """Return the form in which licence names are compared: COCO says 'Attribution License', people 'attribution'."""
    return name.strip().casefold().removesuffix("license").strip()


def filter_license(record: Record, allowed: frozenset[str]) -> Record:
    """Keep a caption if the licence of its image is allowed."""
    if isinstance(record, Reject) or "*" in allowed or license_key(record.image_license) in allowed:
        return record
    return Reject.of(record, "licenses", "license_not_allowed", record.image_license)


def clean(record: Record) -> Record:
    """Clean a caption's text."""
    if isinstance(record, Reject):
        return record
    text = clean_caption(record.caption)
    if not text:
        return Reject.of(record, "captions", "empty_caption", "nothing is left after cleaning")
    return ImageCaption(record.image_id, record.id, text, record.image_url, record.image_name, record.image_license)


def assign_shard(record: Record, layout: Layout) -> tuple[tuple[str, int, int], bytes]:
    """Key a record by its shard and pack it for the shuffle; its first byte tells a caption from a Reject."""
    key = layout.assign(record.image_id)
    tag = b"C" if isinstance(record, ImageCaption) else b"R"
    return (key.split, key.index, key.count), tag + to_json_line(record)


def unpack(packed: bytes) -> Record:
    """Undo the packing of `assign_shard`."""
    return (ImageCaption if packed[:1] == b"C" else Reject).from_json(packed[1:])


class _WriteShard(beam.DoFn):
    def __init__(self, draft: Draft, parameters: PreprocessParameters) -> None:
        self._draft, self._parameters = draft, parameters

    def setup(self) -> None:
        self._fetcher = Fetcher(self._parameters)

    def process(self, element: tuple[tuple[str, int, int], Iterable[bytes]]) -> Iterable[ShardInfo]:
        key, packed = element
        info = write_shard(self._draft, ShardKey(*key), map(unpack, packed), self._parameters, self._fetcher)
        for name, count in info.counts.items():
            Metrics.counter("preprocess", name).inc(count)
        for reason, count in info.rejected.items():
            Metrics.counter("preprocess", f"rejected_{reason}").inc(count)
        yield info


def commit(infos: list[ShardInfo], draft: Draft, captions: int) -> str:
    """Write the manifest of the preprocessed artifact; returns its URI.

    Raises:
        StepFailed: a caption is unaccounted for, or no image is left.
    """
    counts, rejected, splits = Counter[str](), Counter[str](), Counter[str]()
    for info in infos:
        counts.update(info.counts)
        rejected.update(info.rejected)
        splits[info.split] += info.counts["images_out"]
    if counts["captions_in"] != captions or captions != counts["captions_out"] + rejected.total():
        raise StepFailed(f"of {captions} captions {counts['captions_in']} arrived: the input changed under the job")
    if not counts["images_out"]:
        reasons = ", ".join(f"{reason} {count}" for reason, count in rejected.most_common())
        raise StepFailed(f"no image is left; captions rejected: {reasons}")
    draft.commit(
        [file for info in infos for file in info.files],
        counts={
            "captions": {"in": captions, "out": counts["captions_out"], "rejected": rejected.total()},
            "images": {
                "in": counts["images_in"],
                "out": counts["images_out"],
                "rejected": counts["images_in"] - counts["images_out"],
            },
            "splits": {split: splits[split] for split in sorted(splits)},
            "rejected": dict(sorted(rejected.items())),
        },
    )
    return draft.uri


def _beam_path(uri: str) -> str:
    # Beam's local file system knows no file:// scheme; fsspec's path is what it wants.
    fs, path = file_system(uri)
    return path if "file" in fs.protocol else uri

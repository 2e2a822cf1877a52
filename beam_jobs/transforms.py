"""PTransforms of the preprocess job.

Only caption records travel between them: an image is fetched, processed and written inside one
call, so its bytes never cross a shuffle. Not for streaming input: a shard needs all its captions.
"""

import re
from collections.abc import Iterable

import apache_beam as beam
from apache_beam.metrics import Metrics

from captionflow import preprocess
from captionflow.artifacts import Draft, file_system
from captionflow.fetch import Fetcher
from captionflow.parameters import PreprocessParameters
from captionflow.preprocess import Record
from captionflow.shards import Layout, ShardInfo, ShardKey

PackedKey = tuple[str, int, int]


@beam.typehints.with_output_types(Record)
class ReadCaptions(beam.PTransform):
    """Read `captions.jsonl`; a line that is no ImageCaption becomes a Reject."""

    def __init__(self, uri: str) -> None:
        super().__init__()
        self._uri = uri

    def expand(self, pipeline: beam.Pipeline) -> beam.PCollection[Record]:
        """Lines → records."""
        return (
            pipeline
            | beam.io.ReadFromText(_beam_path(self._uri), coder=beam.coders.BytesCoder())
            | beam.Map(preprocess.parse)
        )


class FilterLicenses(beam.PTransform):
    """Turn captions of images under another licence than `licenses` into Rejects."""

    def __init__(self, licenses: Iterable[str]) -> None:
        super().__init__()
        self._allowed = frozenset(map(preprocess.license_key, licenses))

    def expand(self, records: beam.PCollection[Record]) -> beam.PCollection[Record]:
        """Records → records."""
        return records | beam.Map(preprocess.filter_license, self._allowed)


class CleanCaptions(beam.PTransform):
    """Clean the captions; one of which nothing is left becomes a Reject."""

    def expand(self, records: beam.PCollection[Record]) -> beam.PCollection[Record]:
        """Records → records."""
        return records | beam.Map(preprocess.clean)


class GroupByShard(beam.PTransform):
    """Bring everything known of a shard's images together: the job's one shuffle."""

    def __init__(self, layout: Layout) -> None:
        super().__init__()
        self._layout = layout

    def expand(self, records: beam.PCollection[Record]) -> beam.PCollection[tuple[PackedKey, Iterable[bytes]]]:
        """Records → (split, index, count) with its records as JSON."""
        return records | "AssignShards" >> beam.Map(preprocess.assign_shard, self._layout) | beam.GroupByKey()


class WriteShards(beam.PTransform):
    """Make one Avro file and one file of Rejects for each shard."""

    def __init__(self, draft: Draft, parameters: PreprocessParameters) -> None:
        super().__init__()
        self._draft, self._parameters = draft, parameters

    def expand(self, shards: beam.PCollection[tuple[PackedKey, Iterable[bytes]]]) -> beam.PCollection[ShardInfo]:
        """Shards → ShardInfo."""
        return shards | beam.ParDo(_WriteShard(self._draft, self._parameters))


class CommitManifest(beam.PTransform):
    """Gather what came of every shard and write the manifest, last of all."""

    def __init__(self, draft: Draft, captions: int) -> None:
        super().__init__()
        self._draft, self._captions = draft, captions

    def expand(self, infos: beam.PCollection[ShardInfo]) -> beam.PCollection[str]:
        """ShardInfos → the URI of the artifact, once."""
        return infos | beam.combiners.ToList() | beam.Map(preprocess.commit, self._draft, self._captions)


class _WriteShard(beam.DoFn):
    def __init__(self, draft: Draft, parameters: PreprocessParameters) -> None:
        self._draft, self._parameters = draft, parameters

    def setup(self) -> None:
        self._fetcher = Fetcher(self._parameters)

    def process(self, element: tuple[PackedKey, Iterable[bytes]]) -> Iterable[ShardInfo]:
        key, packed = element
        info = preprocess.write_shard(
            self._draft, ShardKey(*key), map(preprocess.unpack, packed), self._parameters, self._fetcher
        )
        for name, count in info.counts.items():
            Metrics.counter("preprocess", name).inc(count)
        for reason, count in info.rejected.items():
            Metrics.counter("preprocess", f"rejected_{reason}").inc(count)
        yield info


def _beam_path(uri: str) -> str:
    # Beam's local file system knows no file:// scheme; fsspec's path is what it wants.
    fs, path = file_system(uri)
    plain = path if "file" in fs.protocol else uri
    # Beam takes a path for a pattern.
    return re.sub(r"([*?[])", r"[\1]", plain)

"""PTransforms of the preprocess job.

Only caption records travel between them: an image is fetched, processed and written within one transform, so its bytes
never cross a shuffle. Not for streaming input: a shard needs all its captions.
"""

import re
from collections import Counter, deque
from collections.abc import Callable, Iterable, Iterator
from concurrent.futures import Future

import apache_beam as beam
from apache_beam.metrics import Metrics
from apache_beam.transforms.window import GlobalWindow
from apache_beam.utils.shared import Shared
from apache_beam.utils.windowed_value import WindowedValue

from captionflow.core.draft import Draft
from captionflow.core.manifest import Parent
from captionflow.core.uris import file_system
from captionflow.preprocess import boilerplate, filters, reuse
from captionflow.preprocess import captions as preprocess
from captionflow.preprocess.filters import Record
from captionflow.preprocess.parameters import PreprocessParameters
from captionflow.preprocess.reuse import Earlier, EarlierArtifact
from captionflow.preprocess.shards import Layout, ShardInfo, ShardKey
from captionflow.preprocess.workers import ShardWorkers
from captionflow.preprocess.writer import ShardTask

Shard = tuple[tuple[str, int, int], Iterable[bytes]]


@beam.typehints.with_output_types(Record)
class ReadCaptions(beam.PTransform[beam.Pipeline, beam.PCollection[Record]]):
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


class FilterCaptions(beam.PTransform[beam.PCollection[Record], beam.PCollection[Record]]):
    """Put the captions through the filters and clean them; one that is refused becomes a Reject."""

    def __init__(self, parameters: PreprocessParameters) -> None:
        super().__init__()
        self._parameters = parameters

    def expand(self, records: beam.PCollection[Record]) -> beam.PCollection[Record]:
        """Records → records."""
        records = records | beam.Map(filters.apply_all, self._parameters)
        most = self._parameters.max_same_caption
        return records | RejectBoilerplate(most) if most else records


class RejectBoilerplate(beam.PTransform[beam.PCollection[Record], beam.PCollection[Record]]):
    """Reject captions that more than `most` images have.

    Not for a bound that most captions exceed: each worker holds 16 bytes, and their overhead, for each text that does.
    """

    def __init__(self, most: int) -> None:
        super().__init__()
        self._most = most

    def expand(self, records: beam.PCollection[Record]) -> beam.PCollection[Record]:
        """Records → records."""
        common = (
            records
            | beam.FlatMap(boilerplate.keyed).with_output_types(tuple[bytes, int])
            | beam.CombinePerKey(_HasMoreThan(self._most))
            | "Common" >> beam.Filter(lambda counted: counted[1])
            | beam.Keys()
            | beam.combiners.ToSet()
        )
        return records | "Reject" >> beam.Map(boilerplate.reject, beam.pvalue.AsSingleton(common), self._most)


class _HasMoreThan(beam.CombineFn):
    """Whether there are more than `most` different values; accumulators stop growing beyond it."""

    def __init__(self, most: int) -> None:
        self._most = most

    def create_accumulator(self) -> set[int]:
        return set()

    def add_input(self, values: set[int], value: int) -> set[int]:
        if len(values) <= self._most:
            values.add(value)
        return values

    def merge_accumulators(self, accumulators: Iterable[set[int]]) -> set[int]:
        merged: set[int] = set()
        for values in accumulators:
            if len(merged) <= self._most:
                merged |= values
        return merged

    def extract_output(self, values: set[int]) -> bool:
        return len(values) > self._most


class IndexEarlier(beam.PTransform[beam.Pipeline, beam.PCollection[Earlier]]):
    """List the images of an earlier preprocessed artifact, so that they are not fetched again."""

    def __init__(self, earlier: EarlierArtifact) -> None:
        super().__init__()
        self._earlier = earlier

    def expand(self, pipeline: beam.Pipeline) -> beam.PCollection[Earlier]:
        """Nothing → Earlier."""
        files = pipeline | beam.Create(self._earlier.files) | beam.Reshuffle()
        return files | beam.FlatMap(reuse.index, self._earlier.artifact.uri)


class GroupByShard(beam.PTransform[beam.PCollection[Record | Earlier], beam.PCollection[Shard]]):
    """Group captions, Rejects and Earlier by shard: the job's one shuffle."""

    def __init__(self, layout: Layout) -> None:
        super().__init__()
        self._layout = layout

    def expand(self, records: beam.PCollection[Record | Earlier]) -> beam.PCollection[Shard]:
        """Records → (split, index, count) with its records as JSON."""
        return records | "AssignShards" >> beam.FlatMap(preprocess.assign_shard, self._layout) | beam.GroupByKey()


class WriteShards(beam.PTransform[beam.PCollection[Shard], beam.PCollection[ShardInfo]]):
    """Make one file of images and one of Rejects for each shard.

    Args:
        start_workers: starts the processes that write.
        shared: Beam's handle of the ShardWorkers that all threads of a process share.
    """

    def __init__(self, draft: Draft, start_workers: Callable[[], ShardWorkers], shared: Shared) -> None:
        super().__init__()
        self._do_fn = _WriteShards(draft, start_workers, shared)

    def expand(self, shards: beam.PCollection[Shard]) -> beam.PCollection[ShardInfo]:
        """Shards → ShardInfo."""
        return shards | beam.ParDo(self._do_fn)


class CommitManifest(beam.PTransform[beam.PCollection[ShardInfo], beam.PCollection[str]]):
    """Gather the ShardInfos, with the few small pictures that the page shows, and write the manifest, last of all."""

    def __init__(self, draft: Draft, layout: Layout, captions: int, reused: Parent | None = None) -> None:
        super().__init__()
        self._arguments = draft, layout, captions, reused

    def expand(self, infos: beam.PCollection[ShardInfo]) -> beam.PCollection[str]:
        """ShardInfos → the URI of the artifact, once."""
        return infos | beam.combiners.ToList() | beam.Map(preprocess.commit, *self._arguments)


class _WriteShards(beam.DoFn):
    def __init__(self, draft: Draft, start_workers: Callable[[], ShardWorkers], shared: Shared) -> None:
        self._draft, self._start_workers, self._shared = draft, start_workers, shared

    def setup(self) -> None:
        self._workers = self._shared.acquire(self._start_workers)

    def start_bundle(self) -> None:
        self._submitted: deque[Future[ShardInfo | None]] = deque()

    def process(self, shard: Shard) -> Iterator[ShardInfo]:
        key, packed = shard
        # A list, as the records may not outlive this call.
        self._submitted.append(self._workers.submit(ShardTask(self._draft, ShardKey(*key), list(packed))))
        if len(self._submitted) > self._workers.capacity:
            yield from self._next_info()

    def finish_bundle(self) -> Iterator[WindowedValue]:
        while self._submitted:
            for info in self._next_info():
                yield WindowedValue(info, GlobalWindow().max_timestamp(), (GlobalWindow(),))

    def _next_info(self) -> Iterator[ShardInfo]:
        if info := self._submitted.popleft().result():
            count(info)
            yield info


def count(info: ShardInfo, before: ShardInfo | None = None) -> None:
    """Count a shard in Beam's metrics.

    Args:
        before: the shard as it was counted before.
    """
    counted = Counter(_metrics(before)) if before else Counter[str]()
    for name, number in _metrics(info).items():
        Metrics.counter("preprocess", name).inc(number - counted[name])


def _metrics(info: ShardInfo) -> dict[str, int]:
    """Return name → number of a shard's metrics."""
    return info.counts | info.run_counts | {f"rejected_{reason}": number for reason, number in info.rejected.items()}


def _beam_path(uri: str) -> str:
    # Beam's local file system knows no file:// scheme; fsspec's path is what it wants.
    fs, path = file_system(uri)
    plain = path if "file" in fs.protocol else uri
    # Beam reads a path as a pattern.
    return re.sub(r"([*?[])", r"[\1]", plain)

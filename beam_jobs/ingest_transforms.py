"""PTransforms of the ingest job.

What travels between them is ids and digests, never a row: whoever needs the rows of a file reads it. Not for streaming
input: the rules need all captions of an id or an image.
"""

from collections.abc import Iterable, Iterator
from typing import Any

import apache_beam as beam
from apache_beam.pvalue import AsDict, TaggedOutput

from captionflow.core.draft import Draft
from captionflow.core.manifest import Parent
from captionflow.sources import parts, rules
from captionflow.sources.expansion import SourceFile
from captionflow.sources.opening import open_file
from captionflow.sources.parameters import IngestParameters
from captionflow.sources.parts import FilePart, WrittenPart
from captionflow.sources.rules import Caption

ImageRow = tuple[int, Caption]
Keys = beam.PCollection[tuple[int, ImageRow]]
# Beam reads annotations, and warns of those that name several collections.
Several = Any
_FILES, _REFUSED = "files", "refused"
# A verdict on no row, so that each file has a group of them.
_NO_ROW = -1


class ListFiles(beam.PTransform[beam.Pipeline, beam.PCollection[FilePart]]):
    """The files of the sources, for workers to share."""

    def __init__(self, files: list[SourceFile]) -> None:
        super().__init__()
        self._parts = [FilePart(number, len(files), file) for number, file in enumerate(files)]

    def expand(self, pipeline: beam.Pipeline) -> beam.PCollection[FilePart]:
        """Nothing → FileParts."""
        return pipeline | beam.Create(self._parts) | beam.Reshuffle()


class ReadKeys(beam.PTransform[beam.PCollection[FilePart], Several]):
    """Read each file for what the rules must know of its rows."""

    def __init__(self, parameters: IngestParameters) -> None:
        super().__init__()
        self._parameters = parameters

    def expand(self, files: beam.PCollection[FilePart]) -> Several:
        """FileParts → (caption id, (image id, Caption)), and number → (FilePart, Parent)."""
        read = beam.FlatMap(_read_keys, self._parameters).with_output_types(tuple[int, ImageRow])
        return files | read.with_outputs(_FILES, main="keys")


class ApplyRules(beam.PTransform[Keys, Several]):
    """Find the captions that the rules refuse, by two shuffles: one by the captions' ids, one by the images'."""

    def __init__(self, max_captions: int) -> None:
        super().__init__()
        self._max_captions = max_captions

    def expand(self, keys: Keys) -> Several:
        """(caption id, (image id, Caption)) → verdicts, and split → number of images."""
        by_id = beam.FlatMap(_of_one_id).with_output_types(ImageRow)
        by_image = beam.FlatMap(_of_one_image, self._max_captions).with_output_types(str | None)
        first, of_ids = keys | "GroupById" >> beam.GroupByKey() | by_id.with_outputs(_REFUSED, main="first")
        splits, of_images = first | "GroupByImage" >> beam.GroupByKey() | by_image.with_outputs(_REFUSED, main="splits")
        return (of_ids, of_images) | beam.Flatten(), splits | beam.combiners.Count.PerElement()


class WriteParts(beam.PTransform[Several, beam.PCollection[WrittenPart]]):
    """Read each file again, and write what the rules leave of it."""

    def __init__(self, draft: Draft, parameters: IngestParameters) -> None:
        super().__init__()
        self._arguments = draft, parameters

    def expand(self, inputs: Several) -> beam.PCollection[WrittenPart]:
        """Files, as `ReadKeys` gives them, and verdicts → WrittenParts."""
        files, verdicts = inputs
        each = files | beam.MapTuple(lambda number, _: (number, _NO_ROW))
        groups = (verdicts, each) | beam.Flatten() | beam.GroupByKey()
        return groups | beam.Map(_write_part, AsDict(files), *self._arguments)


class JoinParts(beam.PTransform[Several, beam.PCollection[str]]):
    """Gather the parts, join them in their order, and write the manifest, last of all."""

    def __init__(self, draft: Draft, parameters: IngestParameters) -> None:
        super().__init__()
        self._arguments = draft, parameters

    def expand(self, inputs: Several) -> beam.PCollection[str]:
        """WrittenParts, and split → number of images → the URI of the artifact, once."""
        written, images = inputs
        return written | beam.combiners.ToList() | beam.Map(parts.join, AsDict(images), *self._arguments)


def _read_keys(part: FilePart, parameters: IngestParameters) -> Iterator[Any]:
    with open_file(part.file, parameters) as source:
        yield TaggedOutput(_FILES, (part.number, (part, source.parent)))
        yield from parts.rows_of(part, source, parameters)


def _of_one_id(group: tuple[int, Iterable[ImageRow]]) -> Iterator[Any]:
    first, others = rules.of_one_id(group[1])
    yield first
    for place in others:
        yield TaggedOutput(_REFUSED, parts.verdict(place, rules.DUPLICATE))


def _of_one_image(group: tuple[int, Iterable[Caption]], max_captions: int) -> Iterator[Any]:
    split, refused = rules.of_one_image(group[1], max_captions)
    yield split
    for place, reason in refused:
        yield TaggedOutput(_REFUSED, parts.verdict(place, reason))


def _write_part(
    group: tuple[int, Iterable[int]],
    files: dict[int, tuple[FilePart, Parent]],
    draft: Draft,
    parameters: IngestParameters,
) -> WrittenPart:
    number, verdicts = group
    return parts.write_part(*files[number], (verdict for verdict in verdicts if verdict != _NO_ROW), draft, parameters)

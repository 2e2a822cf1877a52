"""The second, cheap pass of the preprocess job: it finds pictures that are the same and leaves all but one out.

No picture crosses a shuffle, only what tells it apart: two hashes and its place.
"""

from collections.abc import Iterator
from typing import Any

import apache_beam as beam

from beam_jobs.transforms import count
from captionflow.core.artifact import Artifact
from captionflow.core.draft import Draft
from captionflow.core.shards import shards_of
from captionflow.preprocess import duplicates, revision
from captionflow.preprocess.duplicates import Edge, Picture
from captionflow.preprocess.parameters import PreprocessParameters
from captionflow.preprocess.revision import Joined, Revision
from captionflow.preprocess.shards import ShardInfo


class LeaveOutDuplicates(beam.PTransform[beam.PCollection[ShardInfo], beam.PCollection[ShardInfo]]):
    """Write the shards that hold duplicates again without them.

    Args:
        excluded: the artifact none of whose pictures may be in train or val.
    """

    def __init__(self, draft: Draft, parameters: PreprocessParameters, excluded: Artifact | None) -> None:
        super().__init__()
        self._draft, self._parameters, self._excluded = draft, parameters, excluded

    def expand(self, infos: beam.PCollection[ShardInfo]) -> beam.PCollection[ShardInfo]:
        """ShardInfos as first written → ShardInfos."""
        groups = (
            self._pictures(infos)
            | FindEdges(self._parameters)
            | beam.combiners.ToList()
            | beam.Map(duplicates.duplicates, self._parameters)
        )
        found = groups | beam.FlatMap(lambda group: [(each.place.shard, each) for each in group])
        shown = groups | beam.FlatMap(duplicates.examples)
        named = infos | "KeyByName" >> beam.WithKeys(lambda info: info.name)
        joined = {"infos": named, "found": found} | "Gather" >> beam.CoGroupByKey() | beam.FlatMap(_captions_to_join)
        return (
            {"infos": named, "found": found, "joined": joined, "shown": shown}
            | "GatherAll" >> beam.CoGroupByKey()
            | beam.FlatMap(_revise, self._draft, self._parameters)
        )

    def _pictures(self, infos: beam.PCollection[ShardInfo]) -> beam.PCollection[Picture]:
        own = infos | beam.FlatMap(duplicates.pictures_of)
        if not self._excluded:
            return own
        excluded = (
            infos.pipeline
            | beam.Create(shards_of(self._excluded))
            | beam.Reshuffle()
            | beam.FlatMap(duplicates.excluded_pictures, self._excluded.uri)
        )
        return (own, excluded) | beam.Flatten()


class FindEdges(beam.PTransform[beam.PCollection[Picture], beam.PCollection[Edge]]):
    """Find the pairs of pictures that are the same; of a group only as many pairs as connect it."""

    def __init__(self, parameters: PreprocessParameters) -> None:
        super().__init__()
        self._parameters = parameters

    def expand(self, pictures: beam.PCollection[Picture]) -> beam.PCollection[Edge]:
        """Pictures → pairs."""
        same_bytes = pictures | "EqualBytes" >> GroupEqual("sha256")
        edges = same_bytes | "BytesEdges" >> beam.FlatMap(duplicates.edges)
        if self._parameters.duplicates == "exact":
            return edges
        hashed = same_bytes | beam.Map(min) | beam.Filter(lambda picture: bool(picture.perceptual_hash))
        same_hashes = hashed | "EqualHashes" >> GroupEqual("perceptual_hash")
        near = (
            same_hashes
            | "First" >> beam.Map(min)
            | beam.FlatMap(duplicates.bands)
            | beam.GroupByKey()
            | beam.FlatMap(duplicates.near_pictures, self._parameters.max_duplicate_distance)
        )
        return (edges, same_hashes | "HashEdges" >> beam.FlatMap(duplicates.edges), near) | beam.Flatten()


class GroupEqual(beam.PTransform[beam.PCollection[Picture], beam.PCollection[list[Picture]]]):
    """Group the pictures that are equal in a field."""

    def __init__(self, field: str) -> None:
        super().__init__()
        self._field = field

    def expand(self, pictures: beam.PCollection[Picture]) -> beam.PCollection[list[Picture]]:
        """Pictures → groups."""
        return (
            pictures
            | beam.WithKeys(lambda picture, field: getattr(picture, field), self._field)
            | beam.GroupByKey()
            | beam.MapTuple(lambda _, group: list(group))
        )


def _captions_to_join(shard: tuple[str, dict[str, list[Any]]]) -> Iterator[tuple[str, Joined]]:
    _, grouped = shard
    for info in grouped["infos"]:
        yield from revision.captions_to_join(info, grouped["found"])


def _revise(
    shard: tuple[str, dict[str, list[Any]]], draft: Draft, parameters: PreprocessParameters
) -> Iterator[ShardInfo]:
    _, grouped = shard
    for info in grouped["infos"]:
        changes = Revision.of(grouped["found"], grouped["joined"], grouped["shown"])
        revised = revision.revise(info, changes, draft, parameters)
        count(revised, before=info)
        yield revised

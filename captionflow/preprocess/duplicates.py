"""Pictures that are the same: which they are, and which one stays. `beam_jobs.duplicates` wires these functions.

Not all pairs are compared. Pictures with equal bytes, then those with equal hashes, are grouped by a key, and of each
group one goes on. Of these, two are compared if they agree in one of the bands that their hashes are cut into. Hashes
that differ in fewer bits than there are bands always do, by the pigeonhole principle; of those that differ in as many
bits as the default distance, nine in ten do. Manku et al. 2007, "Detecting near-duplicates for web crawling", find
pages likewise.
"""

from collections import defaultdict
from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from itertools import islice
from shlex import quote
from typing import NamedTuple

import numpy as np

from captionflow.core.artifact import Artifact, open_artifact
from captionflow.core.errors import InvalidInputError
from captionflow.core.manifest import FileInfo, Manifest
from captionflow.core.shards import read_shard
from captionflow.core.steps import PREPROCESSED
from captionflow.core.uris import resolve
from captionflow.images.formats import HASH_BITS
from captionflow.preprocess.parameters import PreprocessParameters
from captionflow.preprocess.reuse import FORM_PARAMETERS
from captionflow.preprocess.shards import ShardInfo, StoredPicture
from captionflow.preprocess.statistics import SHOWN_GROUPS, SHOWN_OF_GROUP

BAND_BITS = 16
# Pairs that are compared at once; it bounds memory.
_PAIRS_AT_ONCE = 1 << 20
# Of a group the picture of the first of these splits stays: a test set is to keep its published pictures.
_EXCLUDED, *_ORDER = ("", "test", "val", "train")


def open_excluded(output: str, parameters: PreprocessParameters) -> Artifact | None:
    """Open the artifact whose pictures are to be left out, if there is one.

    Raises:
        InvalidInputError: it is no preprocessed artifact, or does not hold what its pictures are to be compared by.
    """
    uri, kind = parameters.exclude, parameters.duplicates
    if not uri:
        return None
    if kind == "none":
        raise InvalidInputError("--exclude: needs --duplicates exact or near, which tell what the same picture is")
    if resolve(uri) == resolve(output):
        raise InvalidInputError(f"--exclude: {uri} is where the new artifact goes; choose another --output")
    artifact = open_artifact(uri, PREPROCESSED)
    if kind == "near" and artifact.manifest.parameters.get("duplicates") != kind:
        raise InvalidInputError(
            f"--exclude: {uri} was made without --duplicates near, so it holds no perceptual hashes; make it again "
            f"with --duplicates near --reuse {quote(uri)}, which fetches nothing, or give --duplicates exact"
        )
    wanted = parameters.to_json()
    for name in FORM_PARAMETERS:
        if kind == "exact" and (found := artifact.manifest.parameters.get(name)) != wanted[name]:
            raise InvalidInputError(
                f"--exclude: {uri} was made with {name} {found}, not {wanted[name]}, so equal pictures have other "
                "bytes; give the same, or --duplicates near"
            )
    return artifact


class Place(NamedTuple):
    """Where a picture is. That of the excluded artifact has no shard; its own places come first, then test, val, train.

    Args:
        rank: of its split, of which the lowest stays.
        shard: name of its shard.
    """

    rank: int
    image_id: int
    shard: str

    @property
    def split(self) -> str:
        """The split of its shard; "" in the excluded artifact."""
        return self.shard.partition("/")[0]


class Picture(NamedTuple):
    """A picture on its way to those that are the same."""

    place: Place
    sha256: str
    perceptual_hash: str


def part_of(uri: str, files: tuple[FileInfo, ...]) -> Artifact:
    """Return these files of an artifact, or of a draft, so that they are verified while they are read."""
    return Artifact(uri, Manifest(PREPROCESSED, {}, (), "", files=files))


Edge = tuple[Place, Place]
"""Two places whose pictures are the same."""
Shown = tuple[int, int, bool]
"""An image that is to be looked at, the number of its group, and whether it stays."""


def pictures_of(info: ShardInfo) -> list[Picture]:
    """Return the pictures of a shard as it was first written."""
    rank = 1 + _ORDER.index(info.split)
    return [Picture(Place(rank, each.image_id, info.name), each.sha256, each.perceptual_hash) for each in info.pictures]


def excluded_pictures(file: FileInfo, uri: str) -> Iterator[Picture]:
    """Yield the pictures of one shard of the artifact at `uri`.

    Raises:
        InvalidInputError: the file differs from its manifest.
    """
    with part_of(uri, (file,)).parse(file.path) as shard:
        for sample in read_shard(shard, file.path):
            each = StoredPicture.of(sample)
            yield Picture(Place(0, each.image_id, _EXCLUDED), each.sha256, each.perceptual_hash)


def edges(group: Iterable[Picture]) -> list[Edge]:
    """Return an edge from the first of pictures that are equal to each of the others."""
    first, *others = sorted(group)
    return [(first.place, other.place) for other in others]


def bands(picture: Picture) -> list[tuple[bytes, Picture]]:
    """Return a picture once for each band of its hash, with the band's number and bits as the key."""
    data, size = bytes.fromhex(picture.perceptual_hash), BAND_BITS // 8
    slim = picture._replace(sha256="")
    return [(bytes([start]) + data[start : start + size], slim) for start in range(0, len(data), size)]


def near_pictures(bucket: tuple[bytes, Iterable[Picture]], distance: int) -> Iterator[Edge]:
    """Yield the pairs, among pictures that agree in a band, whose hashes differ in at most `distance` bits.

    A pair that agrees in an earlier band too is left to that one.

    Args:
        bucket: the band, as `bands` returns it, and the pictures.
    """
    band, pictures = bucket
    ordered = sorted(pictures)
    hashes = np.frombuffer(bytes.fromhex("".join(each.perceptual_hash for each in ordered)), np.uint64)
    hashes = hashes.reshape(len(ordered), HASH_BITS // 64)
    rows = max(1, _PAIRS_AT_ONCE // len(ordered))
    for start in range(0, len(ordered), rows):
        differences = np.bitwise_count(hashes[start : start + rows, None] ^ hashes[None, start:]).sum(-1)
        for row, column in zip(*np.nonzero(np.triu(differences <= distance, 1)), strict=True):
            one, other = ordered[start + row], ordered[start + column]
            if not _agree_before(band[0], one, other):
                yield one.place, other.place


def _agree_before(start: int, one: Picture, other: Picture) -> bool:
    digits = BAND_BITS // 4
    return any(
        one.perceptual_hash[first : first + digits] == other.perceptual_hash[first : first + digits]
        for first in range(0, 2 * start, digits)
    )


@dataclass(frozen=True, slots=True, order=True)
class Duplicate:
    """A picture that is left out.

    Args:
        place: where it is.
        kept: the one that stays, or one of the excluded artifact.
        is_joined: whether its captions go to that one.
    """

    place: Place
    kept: Place
    is_joined: bool


def duplicates(edges: Iterable[Edge], parameters: PreprocessParameters) -> list[Duplicate]:
    """Return the pictures to leave out, so that one stays of each group that edges connect.

    Where the group has a picture of the excluded artifact, only one in test may stay.
    """
    found = []
    for group in _connected(edges):
        own = [place for place in group if place.shard != _EXCLUDED]
        is_excluded = len(own) < len(group)
        kept = own[0] if own and (own[0].split == "test" or not is_excluded) else group[0]
        for place in own:
            if place != kept:
                is_joined = parameters.duplicate_captions == "join" and place.split == kept.split
                found.append(Duplicate(place, kept, is_joined))
    return found


def _connected(edges: Iterable[Edge]) -> list[list[Place]]:
    """Return the groups of places that edges connect, each in order and in the order of their first."""
    parents: dict[Place, Place] = {}

    def root(place: Place) -> Place:
        while (parent := parents.setdefault(place, place)) != place:
            parents[place] = parents[parent]  # halves the way for the next
            place = parents[place]
        return place

    for one, other in edges:
        first, second = sorted((root(one), root(other)))
        parents[second] = first
    groups = defaultdict(list)
    for place in sorted(parents):
        groups[root(place)].append(place)
    return list(groups.values())


def examples(found: Iterable[Duplicate]) -> Iterator[tuple[str, Shown]]:
    """Yield, with its shard, each picture of the first groups that is to be looked at."""
    groups = defaultdict(list)
    for each in sorted(found, key=lambda each: (each.kept, each.place)):
        groups[each.kept].append(each.place)
    for number, (kept, others) in enumerate(islice(groups.items(), SHOWN_GROUPS)):
        for place in (kept, *others[: SHOWN_OF_GROUP - 1]):
            if place.shard != _EXCLUDED:
                yield place.shard, (place.image_id, number, place == kept)

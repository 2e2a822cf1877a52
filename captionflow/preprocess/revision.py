"""Shards written again, once it is known which of their pictures are duplicates."""

import hashlib
import json
from base64 import b64decode, b64encode
from collections import Counter, defaultdict
from collections.abc import Iterable, Iterator
from contextlib import closing
from dataclasses import asdict, dataclass, replace
from itertools import chain

from captionflow.core.draft import Draft
from captionflow.core.errors import StepFailedError
from captionflow.core.records import Caption, Reject, Sample, to_json_line
from captionflow.core.shards import read_shard, write_shard
from captionflow.images.thumbnails import Thumbnails
from captionflow.preprocess.duplicates import Duplicate, Shown, part_of
from captionflow.preprocess.parameters import PreprocessParameters
from captionflow.preprocess.shards import PROGRESS, DuplicateExample, ShardInfo, ShardKey, sidecar_of
from captionflow.preprocess.statistics import ShownPicture
from captionflow.preprocess.survey import Survey

STAGE, REASON = "duplicates", "duplicate"

CaptionFields = tuple[int, str, str]
Joined = tuple[int, tuple[CaptionFields, ...]]
"""An image and the captions, each with id, text and raw, that it takes over."""


def captions_to_join(info: ShardInfo, found: Iterable[Duplicate]) -> Iterator[tuple[str, Joined]]:
    """Yield shard, image and captions of each picture that takes over those of one in this shard."""
    captions = {picture.image_id: picture.captions for picture in info.pictures}
    for each in found:
        if each.is_joined:
            yield each.kept.shard, (each.kept.image_id, captions[each.place.image_id])


@dataclass(frozen=True)
class Revision:
    """What changes in a shard.

    Args:
        drops: image → why it is left out.
        joins: image → the captions that it takes over.
        shown: image → its group and whether it stays, of those to be looked at.
    """

    drops: dict[int, Duplicate]
    joins: dict[int, list[CaptionFields]]
    shown: dict[int, tuple[int, bool]]

    @classmethod
    def of(cls, found: Iterable[Duplicate], joined: Iterable[Joined], shown: Iterable[Shown]) -> "Revision":
        """Gather what concerns one shard; in what order it comes makes no difference."""
        joins = defaultdict[int, list[CaptionFields]](list)
        for image_id, captions in sorted(joined):
            joins[image_id] += captions
        drops = {each.place.image_id: each for each in sorted(found)}
        return cls(drops, dict(joins), {image_id: (group, stays) for image_id, group, stays in sorted(shown)})

    @property
    def digest(self) -> str:
        """The same for equal revisions; "" if nothing changes."""
        if not (self.drops or self.joins or self.shown):
            return ""
        content = [[asdict(each) for each in self.drops.values()], [*self.joins.items()], [*self.shown.items()]]
        return hashlib.sha256(json.dumps(content).encode()).hexdigest()


def revise(info: ShardInfo, revision: Revision, draft: Draft, parameters: PreprocessParameters) -> ShardInfo:
    """Write a shard again without its duplicates, and with the captions that its pictures take over.

    Nothing is done if an unfinished attempt of the same job did it.

    Returns:
        What is written now, without `pictures`.

    Raises:
        StepFailedError: an unfinished attempt left out other pictures, which are gone.
    """
    if info.revision not in ("", revision.digest):
        draft.remove(PROGRESS)
        raise StepFailedError(f"{draft.uri}: files of an unfinished attempt were changed; run the step again")
    if info.revision != revision.digest:
        info = _RevisedShard(info, revision, parameters).write(draft)
        draft.put(sidecar_of(info.name), info.to_json())
    return replace(info, pictures=())


class _RevisedShard:
    """A shard that is written again."""

    def __init__(self, info: ShardInfo, revision: Revision, parameters: PreprocessParameters) -> None:
        self._info, self._revision, self._parameters = info, revision, parameters
        self._counts, self._rejects = Counter(info.counts), list[Reject]()
        self._examples: list[DuplicateExample] = []
        self._thumbnails = Thumbnails(parameters)
        self._survey = Survey(ShardKey.of_name(info.name), self._thumbnails, before=info.statistics)

    def write(self, draft: Draft) -> ShardInfo:
        shard, rejects = self._info.files
        before = part_of(draft.uri, self._info.files)
        with (
            closing(self._thumbnails),
            before.parse(shard.path) as source,
            draft.output(shard.path) as new_shard,
        ):
            samples = filter(None, map(self._revised, read_shard(source, shard.path)))
            write_shard(new_shard, self._info.name, samples, self._parameters)
        with draft.output(rejects.path) as new_rejects:
            new_rejects.write(before.read(rejects.path))
            for reject in self._rejects:
                new_rejects.write(to_json_line(reject))
        rejected = Counter(self._info.rejected)
        rejected[REASON] += len(self._rejects)
        return replace(
            self._info,
            counts=dict(self._counts),
            rejected=dict(sorted((+rejected).items())),
            files=(new_shard.info, new_rejects.info),
            statistics=self._survey.statistics(),
            revision=self._revision.digest,
            examples=tuple(self._examples),
        )

    def _revised(self, sample: Sample) -> Sample | None:
        """Return a sample as it is written again; None leaves it out."""
        if shown := self._revision.shown.get(sample.image_id):
            group, stays = shown
            image = b64encode(self._thumbnails.of(sample.image) or b"").decode()
            self._examples.append(DuplicateExample(group, sample.image_id, self._info.split, stays, image))
        if duplicate := self._revision.drops.get(sample.image_id):
            self._drop(sample, duplicate)
            return None
        joined = [Caption(*each) for each in self._revision.joins.get(sample.image_id, ())]
        self._counts["captions_out"] += len(joined)
        sample = replace(sample, captions=tuple(sorted((*sample.captions, *joined), key=lambda each: each.id)))
        self._survey.keep(sample)
        return sample

    def _drop(self, sample: Sample, duplicate: Duplicate) -> None:
        kept = duplicate.kept
        detail = f"of image {kept.image_id} {f'in {kept.split}' if kept.split else f'of {self._parameters.exclude}'}"
        rejects = [
            Reject(STAGE, REASON, detail, each.id, sample.image_id, sample.image_url) for each in sample.captions
        ]
        self._survey.drop(rejects[0])
        self._counts["images_out"] -= 1
        self._counts["captions_out"] -= len(rejects)
        if not duplicate.is_joined:
            self._survey.reject(rejects)
            self._rejects += rejects


def example_groups(infos: Iterable[ShardInfo]) -> list[list[ShownPicture]]:
    """Return the groups to be looked at, in each the picture that stays first."""
    groups = defaultdict(list)
    for example in chain.from_iterable(info.examples for info in infos):
        groups[example.group].append(example)
    ordered = (sorted(groups[number], key=lambda each: (not each.stays, each.image_id)) for number in sorted(groups))
    return [
        [ShownPicture(each.image_id, each.split, each.stays, b64decode(each.image)) for each in group]
        for group in ordered
    ]

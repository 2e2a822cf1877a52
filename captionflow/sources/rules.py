"""The rules that compare rows: which captions the others of their id or image leave no place for.

Each rule looks at the captions that those before it leave, in the order of files and rows:

1. Of the captions with one id the first stays (`duplicate_id`).
2. The first caption of an image fixes its URL and split; those with others go (`conflicting_image`).
3. Of an image's captions the first `max_captions` stay (`too_many_captions`). Their number is bounded because each
   repeats its image's URL, name and licence, and because a training batch is as wide as the image with the most.

`InOrder` sees all rows one after another. `of_one_id` and `of_one_image` see those of one id or image, in any order, so
that workers can share the rows. Both come to the same, which a property test holds.
"""

import hashlib
import heapq
from collections import Counter
from collections.abc import Iterable, Iterator

from captionflow.core.records import SPLIT_CHOICES, ImageCaption, Reject, unforeseeable
from captionflow.sources.rows import STAGE

DUPLICATE, CONFLICTING, TOO_MANY = "duplicate_id", "conflicting_image", "too_many_captions"
REASONS = (DUPLICATE, CONFLICTING, TOO_MANY)
"""The reasons of these rules; a row's place among them fits into two bits."""

_SPLITS = (None, *SPLIT_CHOICES)
# Of the largest --max-captions.
_COUNT_BITS = 14
# Two URLs are taken for one by chance, or on purpose, as seldom as anything.
_DIGEST_BYTES = 16

Caption = tuple[int, bytes, int]
"""What the rules on images look at: a caption's place in the order, a digest of its URL, its split as a number."""


def rejection(record: ImageCaption, reason: str, max_captions: int) -> Reject:
    """Return the Reject of a caption that a rule refuses."""
    if reason == DUPLICATE:
        return Reject.of(record, STAGE, reason, f"an earlier caption has the id {record.id}")
    if reason == CONFLICTING:
        detail = f"an earlier caption has another URL or split for image {record.image_id}"
        return Reject.of(record, STAGE, reason, detail)
    detail = f"image {record.image_id} has more than {max_captions} captions (--max-captions)"
    # Without its URL, which may be long, and which as many rows may repeat as the source has.
    return Reject(STAGE, reason, detail, record.id, record.image_id)


class InOrder:
    """What the rules know after some rows: some 250 bytes for an image with one caption.

    Attributes:
        images: number of images with a caption, by the split that their sources give.
    """

    def __init__(self, max_captions: int) -> None:
        self._max_captions = max_captions
        self._ids = set[bytes]()
        # A hash of its URL and split above the number of its captions: one integer takes half the memory of two.
        self._images: dict[bytes, int] = {}
        self.images = Counter[str | None]()

    def apply(self, records: Iterable[ImageCaption | Reject]) -> Iterator[ImageCaption | Reject]:
        """Put a Reject in the place of each caption that a rule refuses."""
        for record in records:
            if isinstance(record, ImageCaption) and (reason := self._reason(record)):
                yield rejection(record, reason, self._max_captions)
            else:
                yield record

    def _reason(self, record: ImageCaption) -> str | None:
        id_ = unforeseeable(record.id)
        if id_ in self._ids:
            return DUPLICATE
        self._ids.add(id_)
        image_id = unforeseeable(record.image_id)
        image = hash((record.image_url, record.split)) << _COUNT_BITS
        known = self._images.get(image_id)
        if known is None:
            known = image
            self.images[record.split] += 1
        if known >> _COUNT_BITS << _COUNT_BITS != image:
            return CONFLICTING
        if known - image == self._max_captions:
            return TOO_MANY
        self._images[image_id] = known + 1
        return None


def seen(record: ImageCaption, place: int) -> Caption:
    """Return what the rules on images look at.

    Args:
        place: the row's place in the order of files and rows.
    """
    digest = hashlib.blake2b(record.image_url.encode(), digest_size=_DIGEST_BYTES).digest()
    return place, digest, _SPLITS.index(record.split)


def of_one_id(rows: Iterable[tuple[int, Caption]]) -> tuple[tuple[int, Caption], Iterator[int]]:
    """Apply the first rule to the captions of an id; returns the one that stays, and the places of the others.

    Args:
        rows: image id and caption of each; can be iterated over more than once.
    """
    first = min(rows, key=lambda row: row[1])
    return first, (place for _, (place, *_) in rows if place != first[1][0])


def of_one_image(captions: Iterable[Caption], max_captions: int) -> tuple[str | None, Iterator[tuple[int, str]]]:
    """Apply the other rules to what the first one leaves of an image.

    Args:
        captions: can be iterated over more than once. Those that stay fit in memory, all need not.

    Returns:
        The split that the image's source gives; place and reason of each caption that is refused.
    """
    _, url, split = min(captions)
    places = (place for place, its_url, its_split in captions if (its_url, its_split) == (url, split))
    last = heapq.nsmallest(max_captions, places)[-1]

    def refused() -> Iterator[tuple[int, str]]:
        for place, its_url, its_split in captions:
            if (its_url, its_split) != (url, split):
                yield place, CONFLICTING
            elif place > last:
                yield place, TOO_MANY

    return _SPLITS[split], refused()

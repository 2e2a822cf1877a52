"""Captions that many pictures share, such as "image not available": found by a count over the whole collection."""

import hashlib
from collections.abc import Iterator, Set

from captionflow.core.records import Reject
from captionflow.preprocess.cleaning import clean_caption
from captionflow.preprocess.filters import STAGE, CleanedCaption, Record

REASON = "boilerplate_caption"


def key(caption: CleanedCaption) -> bytes:
    """Return 16 bytes that are equal for captions that say the same: those whose plain text is equal."""
    # Of a caption without letters and digits no plain text is left.
    text = clean_caption(caption.caption) or caption.caption
    return hashlib.blake2b(text.encode("utf-8", "surrogatepass"), digest_size=16).digest()


def keyed(record: Record) -> Iterator[tuple[bytes, int]]:
    """Yield the key of a caption with the id of its image; nothing for a Reject."""
    if isinstance(record, CleanedCaption):
        yield key(record), record.image_id


def reject(record: Record, common: Set[bytes], most: int) -> Record:
    """Reject a caption whose key is among those on more than `most` images."""
    if isinstance(record, CleanedCaption) and key(record) in common:
        return Reject.of(record, STAGE, REASON, f"more than {most} images have it")
    return record

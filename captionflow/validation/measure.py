"""Measuring ingested captions: one reading from the first to the last, in memory that does not grow with them."""

import heapq
import re
from collections import Counter
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from tempfile import TemporaryDirectory

import numpy as np
import py3langid  # noqa: F401 - where it is missing this tells so now, and not when all captions are read
from tqdm import tqdm

from captionflow.core.artifact import Artifact
from captionflow.core.languages import language_of
from captionflow.core.records import CAPTIONS, ImageCaption
from captionflow.core.uris import full_disk_errors
from captionflow.validation.frequent import Frequent
from captionflow.validation.keys import Keys, fingerprint
from captionflow.validation.statistics import CATEGORIES, Categories, Numbers, Statistics

UNDECIDED = "undecided"
"""The language of a caption that tells none."""
NO_SPLIT = "none"
"""The split of an image whose source gives none: the next step draws it."""
LOCAL = "local"
"""The host of a picture that is a file."""

_KEPT = {"words": 100_000}
_KEPT_OF_OTHERS = 10_000
_REPEATED = 10
_WORD = re.compile(r"\w{1,50}(?:['’]\w{1,20})?")
_HOST = re.compile(r"(https?://|[a-z][a-z0-9+.-]{0,19}://)(?:[^/?#@]*@)?(\[[^\]]{0,60}\]|[^/:?#]{0,253})", re.I)
_LONGEST_TEXT = 200
_LONGEST_FOR_LANGUAGE = 1000
# A row of captions.jsonl has a hundred bytes at least, so a part has three million keys at most.
_BYTES_OF_A_PART = 256 << 20


def host_of(url: str) -> str:
    """Return the host of an image, in lower case; of stores with the scheme, as `s3://bucket`."""
    found = _HOST.match(url)
    if not found:
        return LOCAL
    scheme, host = found.group(1).lower(), found.group(2).lower()
    return host if scheme.startswith("http") else LOCAL if scheme == "file://" else f"{scheme}{host}"


def measure(artifact: Artifact, language_sample: int) -> Statistics:
    """Return the statistics of an ingested artifact.

    Numbers are exact. Duplicates are found by hashes of 8 bytes (`keys.fingerprint`), in temporary files of at most 96
    bytes a caption. Of words, licences and hosts that are too many to hold, the most frequent are kept (`Frequent`).

    Args:
        language_sample: of about how many captions the language is guessed.

    Raises:
        InvalidInputError: the artifact was changed.
        StepFailedError: the disk has no room for the temporary files.
    """
    with TemporaryDirectory() as folder, full_disk_errors(folder):
        meter = _Meter(artifact, Path(folder), language_sample)
        with _captions(artifact, check=True) as captions, full_disk_errors(folder):
            for caption in tqdm(captions, "validate", unit=" captions", disable=None):
                meter.add(caption)
        return meter.statistics()


@contextmanager
def _captions(artifact: Artifact, *, check: bool) -> Iterator[Iterator[ImageCaption]]:
    with artifact.parse(CAPTIONS, check=check) as lines:
        yield map(ImageCaption.from_json, lines)


class _Meter:
    """What has been measured of the captions so far."""

    def __init__(self, artifact: Artifact, folder: Path, language_sample: int) -> None:
        self._artifact, self._folder = artifact, folder
        (file,) = artifact.files(CAPTIONS)
        self._parts = 1 + file.bytes // _BYTES_OF_A_PART
        self._ids, self._images, self._texts = (Keys(folder / name, self._parts) for name in ("id", "image", "text"))
        self._characters, self._words = Counter[int](), Counter[int]()
        self._frequent = {name: Frequent(_KEPT.get(name, _KEPT_OF_OTHERS)) for name in CATEGORIES}
        # An id's hash is below this with the probability that the caption is to be in the sample.
        share = min(1.0, language_sample / max(1, artifact.count("captions", "out")))
        self._sampled_below = int(share * 2**64) - 2**63
        self._sample: list[str] = []
        self._captions = 0

    def add(self, row: ImageCaption) -> None:
        """Measure a caption."""
        self._captions += 1
        self._ids.add(row.id)
        self._images.add(row.image_id, fingerprint(row.image_url))
        self._texts.add(fingerprint(row.caption))
        self._characters[len(row.caption)] += 1
        self._words[len(row.caption.split())] += 1
        for name, values in {
            "words": _WORD.findall(row.caption.casefold()),
            "licenses": [row.image_license[:_LONGEST_TEXT]],
            "hosts": [host_of(row.image_url)],
            "splits": [row.split or NO_SPLIT],
        }.items():
            self._frequent[name].update(values)
        if fingerprint(str(row.id)) < self._sampled_below:
            self._sample.append(row.caption[:_LONGEST_FOR_LANGUAGE])

    def statistics(self) -> Statistics:
        """Return the statistics of the captions that were added."""
        self._frequent["languages"].update(language_of(text) or UNDECIDED for text in self._sample)
        per_image, urls = self._of_images()
        ids, _ = _distinct(self._ids)
        texts, repeated_texts = _distinct(self._texts)
        distinct_urls, repeated_urls = _distinct(urls)
        images = per_image.total()
        found = self._found({"caption": repeated_texts, "image_url": repeated_urls})
        return Statistics(
            captions=self._captions,
            images=images,
            numbers={
                "captions_per_image": Numbers.of(per_image),
                "characters_per_caption": Numbers.of(self._characters),
                "words_per_caption": Numbers.of(self._words),
            },
            categories={name: Categories.of(name, frequent) for name, frequent in self._frequent.items()},
            duplicates={
                "ids": self._captions - ids, "urls": images - distinct_urls, "captions": self._captions - texts,
            },
            repeated_captions=found["caption"],
            repeated_urls=found["image_url"],
        )  # fmt: skip

    def _of_images(self) -> tuple[Counter[int], Keys]:
        """Return number of captions → of how many images, and the hashes of the images' URLs."""
        per_image, urls = Counter[int](), Keys(self._folder / "url", self._parts)
        for groups in self._images.groups():
            numbers, counts = np.unique(groups["count"], return_counts=True)
            per_image.update(dict(zip(numbers.tolist(), counts.tolist(), strict=True)))
            for url in groups["note"].tolist():
                urls.add(url)
        return per_image, urls

    def _found(self, wanted: dict[str, dict[int, int]]) -> dict[str, list[tuple[str, int]]]:
        """Return texts and counts for hash → count, by the field of the caption: read again, until all are found."""
        found: dict[str, list[tuple[str, int]]] = {name: [] for name in wanted}
        missing = {name: dict(counts) for name, counts in wanted.items()}
        with _captions(self._artifact, check=False) as captions:
            while any(missing.values()):
                row = next(captions)
                for name, counts in missing.items():
                    text: str = getattr(row, name)
                    if counts and (count := counts.pop(fingerprint(text), None)):
                        found[name].append((text[:_LONGEST_TEXT], count))
        return {name: sorted(pairs, key=lambda pair: (-pair[1], pair[0])) for name, pairs in found.items()}


def _distinct(keys: Keys) -> tuple[int, dict[int, int]]:
    """Return how many distinct keys there are, and the most frequent of those that occur more than once."""
    number = 0
    most: list[tuple[int, int]] = []
    for groups in keys.groups():
        number += len(groups)
        repeated = groups[groups["count"] > 1]
        # Ties by key, so that the parts' number changes nothing.
        ranked = repeated[np.lexsort((~repeated["key"], repeated["count"]))[-_REPEATED:]]
        pairs = zip(ranked["count"].tolist(), (~ranked["key"]).tolist(), strict=True)
        most = heapq.nlargest(_REPEATED, [*most, *pairs])
    return number, {~key: count for count, key in most}

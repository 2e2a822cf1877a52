"""Token files of Flickr8k and Flickr30k: in each line a file name, # and a number, a tab, and a caption.

The files are called `Flickr8k.token.txt` and `results_20130124.token`. They name no URLs, no licences and no splits.
"""

import re

from captionflow.core.records import ImageCaption, Reject
from captionflow.sources.caption_file import CaptionFile
from captionflow.sources.columns import Columns
from captionflow.sources.lines import numbered_lines
from captionflow.sources.parameters import IngestParameters
from captionflow.sources.rows import STAGE, Rows, from_columns, in_folder

DESCRIPTION = "Flickr8k's or Flickr30k's tokens (NAME.jpg#0, a tab, a caption)"
_LINE = re.compile(rb"(?P<key>(?P<name>[^#\t\n]+\.\w+)#\d+)[ ]*\t(?P<caption>.+)")


def is_flickr(head: bytes, columns: Columns) -> bool:
    """Whether a file that begins like this is of the format."""
    return _LINE.match(head) is not None


def read_flickr(source: CaptionFile, parameters: IngestParameters, image_root: str | None) -> Rows:
    """Yield the captions of a source; its images are in `image_root`, a folder URI, or beside the file.

    The ids are hashes of the names, so they are the same wherever the pictures lie.
    """
    for number, line in numbered_lines(source):
        yield line if isinstance(line, Reject) else _row(line, number, source, image_root)


def _row(line: bytes, number: int, source: CaptionFile, root: str | None) -> ImageCaption | Reject:
    found = _LINE.fullmatch(line)
    if not found:
        return Reject(STAGE, "no_token_line", f"line {number} is not NAME.jpg#0, a tab and a caption")
    # Bytes that are not UTF-8 become surrogates, which ImageCaption rejects.
    key, name, caption = (found[part].decode("utf-8", "surrogateescape") for part in ("key", "name", "caption"))
    url = in_folder(root, name) if root else name
    return from_columns({"image_id": name, "id": key, "caption": caption, "image_url": url, "image_name": name}, source)

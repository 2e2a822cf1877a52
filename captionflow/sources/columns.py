"""Which column of a table, or key of a JSON object, holds which field of a record."""

from collections.abc import Collection, Mapping
from dataclasses import dataclass
from typing import Any, Self

from captionflow.core.parameters import flag
from captionflow.sources.parameters import IngestParameters
from captionflow.sources.rows import OPTIONAL, REQUIRED

# LAION writes URL and TEXT, DataComp url and text, Hugging Face's folders file_name and text.
_USUAL = {
    "image_url": ("image_url", "url", "URL", "file_name"),
    "caption": ("caption", "text", "TEXT"),
    "image_name": ("image_name", "file_name"),
}
_FIELDS = (*REQUIRED, *OPTIONAL)
_NEEDED = ("image_url", "caption")
_PARAMETERS = {
    "image_url": "url_col", "caption": "caption_col", "id": "id_col", "image_license": "license_col",
    "split": "split_col",
}  # fmt: skip

DESCRIPTION = "a column of URLs (image_url, url or --url-col) and one of captions (caption, text or --caption-col)"


@dataclass(frozen=True)
class Columns:
    """The names that the columns of the fields may have.

    Args:
        given: field → the name that the user gave for its column; no other is looked for.
    """

    given: Mapping[str, str]

    @classmethod
    def of(cls, parameters: IngestParameters) -> Self:
        """Read them from the parameters."""
        names = {field: getattr(parameters, parameter) for field, parameter in _PARAMETERS.items()}
        return cls({field: name for field, name in names.items() if name})

    def find(self, names: Collection[str]) -> dict[str, str]:
        """Return field → its column; a field that the user gave a column has it, be it among `names` or not."""
        found = dict(self.given)
        for field in _FIELDS:
            usual = next((name for name in _USUAL.get(field, (field,)) if name in names), None)
            if usual is not None:
                found.setdefault(field, usual)
        return found

    def pick(self, row: Mapping[str, Any]) -> dict[str, Any]:
        """Return the fields of a row; None for one whose column the user gave and the row lacks."""
        return {field: row.get(name) for field, name in self.find(row.keys()).items()}

    def hold_captions(self, names: Collection[str]) -> bool:
        """Whether there is a column of URLs and one of captions."""
        found = self.find(names)
        return all(found.get(field) in names for field in _NEEDED)

    def missing(self, names: Collection[str]) -> str | None:
        """Return which column a table lacks and how to name another, in a few words; None if it has all."""
        found = self.find(names)
        for field in (*_NEEDED, *self.given):
            if found.get(field) not in names:
                column = repr(self.given[field]) if field in self.given else f"of {field}"
                return f"has no column {column} ({flag(_PARAMETERS[field])})"
        return None

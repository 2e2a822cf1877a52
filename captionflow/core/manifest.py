"""The manifest of an artifact, `manifest.json`: what it holds and what it was made from."""

import hashlib
import json
from dataclasses import asdict, dataclass, field
from typing import Any

MANIFEST = "manifest.json"
_TYPES = {"kind": str, "parameters": dict, "code_version": str, "counts": dict, "metrics": dict, "run": dict}
_DEEPEST = 20


def _is_flat(value: Any, levels: int) -> bool:
    if not isinstance(value, (dict, list)):
        return True
    inner = value.values() if isinstance(value, dict) else value
    return levels > 0 and all(_is_flat(item, levels - 1) for item in inner)


@dataclass(frozen=True)
class FileInfo:
    """A file of an artifact: its path within, its size in bytes, its sha256 in hex.

    Raises:
        ValueError: the path leads out of the artifact, or a value is of another type.
    """

    path: str
    bytes: int
    sha256: str

    def __post_init__(self) -> None:
        if (type(self.path), type(self.bytes), type(self.sha256)) != (str, int, str):
            raise ValueError(f"not a path, a size and a digest: {self}")
        if not {"", ".", ".."}.isdisjoint(self.path.split("/")) or "\\" in self.path or not self.path.isprintable():
            raise ValueError(f"{self.path!r} is not a path within the artifact")


@dataclass(frozen=True)
class Parent:
    """What an artifact was made from: another artifact (digest of its manifest) or a source file.

    Raises:
        ValueError: a value is no text.
    """

    kind: str
    uri: str
    sha256: str

    def __post_init__(self) -> None:
        if not all(type(value) is str for value in (self.kind, self.uri, self.sha256)):
            raise ValueError(f"not a kind, a URI and a digest: {self}")


@dataclass(frozen=True)
class Manifest:
    """The content of `manifest.json`.

    `run` holds what differs between two equal runs (times, speed); `sha256` covers everything else, so equal work has
    equal digests.
    """

    kind: str
    parameters: dict[str, Any]
    parents: tuple[Parent, ...]
    code_version: str
    counts: dict[str, Any] = field(default_factory=dict)
    metrics: dict[str, float] = field(default_factory=dict)
    files: tuple[FileInfo, ...] = ()
    run: dict[str, Any] = field(default_factory=dict)

    @classmethod
    def from_json(cls, data: bytes) -> "Manifest":
        """Read what `to_json` wrote; raises ValueError on anything else."""
        try:
            values = json.loads(data)
            for name, kind in _TYPES.items():
                if not isinstance(values.get(name, kind()), kind):
                    raise TypeError(f"{name} is not of type {kind.__name__}")
            if not all(type(value) in (int, float) for value in values.get("metrics", {}).values()):
                raise TypeError("a metric is no number")
            if not all(_is_flat(values.get(name), _DEEPEST) for name in _TYPES):
                raise TypeError("values lie deep within each other")
            values["parents"] = tuple(Parent(**parent) for parent in values["parents"])
            values["files"] = tuple(FileInfo(**file) for file in values["files"])
            return cls(**values)
        except (AttributeError, KeyError, TypeError, RecursionError) as error:
            raise ValueError(f"not a manifest: {error}") from error

    def to_json(self) -> bytes:
        """Return the manifest as indented JSON."""
        return json.dumps(asdict(self), indent=2, ensure_ascii=False).encode()

    @property
    def sha256(self) -> str:
        """Digest of everything but the `run` section."""
        values = {name: value for name, value in asdict(self).items() if name != "run"}
        return hashlib.sha256(json.dumps(values, sort_keys=True).encode()).hexdigest()

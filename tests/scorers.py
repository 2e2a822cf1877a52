"""A package of scorers, installed in a folder as pip would, for this process and for those that it starts."""

from pathlib import Path

import pytest

MODULE = '''
from PIL import ImageStat


def brightness(pictures, captions):
    return [ImageStat.Stat(picture.convert("L")).mean[0] / 255 for picture in pictures]


def words(pictures, captions):
    return [sum(len(caption.split()) for caption in texts) for texts in captions]


def batch(pictures, captions):
    """Against the rules, so that a test sees the batches."""
    return [len(pictures)] * len(pictures)


def too_few(pictures, captions):
    return [0.5] * (len(pictures) - 1)


def not_finite(pictures, captions):
    return [float("nan")] * len(pictures)


def text(pictures, captions):
    return ["bright"] * len(pictures)


def nothing(pictures, captions):
    return None


def fails(pictures, captions):
    raise RuntimeError("no such weights:\\n/models/clip")


def greedy(pictures, captions):
    """Changes what it is given."""
    pictures.clear()
    return [1.0 for _ in captions]


constant = 1.0
'''
NAMES = ("batch", "brightness", "constant", "fails", "greedy", "not_finite", "nothing", "text", "too_few", "words")
_POINTS = {name: f"test_scorers:{name}" for name in NAMES} | {"missing": "no_such_module:f"}


def write_package(folder: Path, name: str, points: dict[str, str]) -> Path:
    """Write the metadata of an installed package that has nothing but entry points."""
    info = folder / f"{name}-1.0.dist-info"
    info.mkdir(parents=True)
    (info / "METADATA").write_text(f"Metadata-Version: 2.1\nName: {name}\nVersion: 1.0\n")
    rows = "".join(f"{point} = {value}\n" for point, value in points.items())
    (info / "entry_points.txt").write_text(f"[captionflow.scorers]\n{rows}")
    return folder


def write_scorers(folder: Path) -> Path:
    """Install the package in a folder."""
    write_package(folder, "test_scorers", _POINTS)
    (folder / "test_scorers.py").write_text(MODULE)
    return folder


def add_to_path(monkeypatch: pytest.MonkeyPatch, folder: Path) -> None:
    """Have this process, and those that it starts, find what is installed in a folder."""
    monkeypatch.syspath_prepend(folder)
    monkeypatch.setenv("PYTHONPATH", str(folder), prepend=":")

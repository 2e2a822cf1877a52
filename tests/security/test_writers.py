"""Two processes that make the same artifact: the one that began last makes it, the other says so and ends."""

import fcntl
import json
import os
import signal
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest

from beam_jobs.preprocess import run
from captionflow.core import draft as drafts
from captionflow.core.artifact import open_artifact
from captionflow.core.draft import begin
from captionflow.core.errors import InvalidInputError, StepFailedError
from captionflow.preprocess.parameters import PreprocessParameters
from tests.conftest import SMALL

pytestmark = pytest.mark.security

STEPS: dict[str, Callable[[Path, dict[str, str]], list[str]]] = {
    "sample": lambda root, made: ["sample", "--images=300"],
    "ingest": lambda root, made: ["ingest", f"--sources={root}/captions.jsonl"],
    "csv": lambda root, made: ["csv", f"--ingested={made['many']}"],
    "validate": lambda root, made: ["validate", f"--ingested={made['many']}", "--language-sample=0"],
    "preprocess": lambda root, made: [
        "preprocess", f"--ingested={made['ingested']}", f"--allow-url-prefix={made['sample']}", "--split=1,0,0",
    ],
    "train": lambda root, made: [
        "train", f"--preprocessed={made['preprocessed']}", "--epochs=2",
        *(f"--{name.replace('_', '-')}={value}" for name, value in SMALL.items()),
    ],
    "evaluate": lambda root, made: [
        "evaluate", f"--model={made['model']}", f"--preprocessed={made['preprocessed']}",
    ],
}  # fmt: skip


@pytest.fixture(scope="module")
def made(small_sample: Path, ingested: str, trainable: str, model: str, tmp_path_factory: pytest.TempPathFactory):
    root = tmp_path_factory.mktemp("many")
    row = {"caption": "a dog", "image_url": "http://host/1.jpg", "image_name": "1", "image_license": "x"}
    lines = [json.dumps({**row, "image_id": i // 5, "id": i}) for i in range(50_000)]
    (root / "captions.jsonl").write_text("\n".join(lines))
    subprocess.run([*command("ingest"), f"--sources={root}/captions.jsonl", f"--output={root}/ingested"], check=True)
    return {
        "root": str(root), "many": f"{root}/ingested", "sample": str(small_sample), "ingested": ingested,
        "preprocessed": trainable, "model": model,
    }  # fmt: skip


def command(*arguments: str) -> list[str]:
    return [sys.executable, "-m", "captionflow", *arguments]


def token(folder: Path) -> str:
    """The owner's token, once all of the mark is there."""
    try:
        mark = json.loads((folder / "manifest.partial.json").read_bytes())
    except (FileNotFoundError, ValueError):
        return ""
    return mark["token"] if "parameters" in mark else ""


def is_locked(folder: Path) -> bool:
    descriptor = os.open(folder, os.O_RDONLY)
    try:
        fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except BlockingIOError:
        return True
    finally:
        os.close(descriptor)
    return False


class Writer:
    """A step in a process group of its own, which can be held in the middle of its work."""

    def __init__(self, arguments: list[str], folder: Path) -> None:
        before = token(folder)
        self.process = subprocess.Popen(
            [*command(*arguments), f"--output={folder}"], stderr=subprocess.PIPE, text=True, start_new_session=True
        )
        while token(folder) in ("", before):
            assert self.process.poll() is None, "it ended before it could be held"
        os.killpg(self.process.pid, signal.SIGSTOP)
        while is_locked(folder):  # It is just beginning; nobody else could go on.
            os.killpg(self.process.pid, signal.SIGCONT)
            time.sleep(0.001)
            os.killpg(self.process.pid, signal.SIGSTOP)
        assert token(folder) not in ("", before), "it ended before it could be held"

    def go_on(self) -> tuple[int, str]:
        os.killpg(self.process.pid, signal.SIGCONT)
        _, said = self.process.communicate(timeout=120)
        return self.process.returncode, said


@contextmanager
def held(arguments: list[str], folder: Path) -> Iterator[Writer]:
    writer = Writer(arguments, folder)
    try:
        yield writer
    finally:
        if writer.process.poll() is None:
            os.killpg(writer.process.pid, signal.SIGKILL)
            writer.process.wait()


def assert_lost(code: int, said: str) -> None:
    assert code == 1
    assert "another run has begun to write here" in said.strip().splitlines()[-1]
    assert "Traceback" not in said


@pytest.mark.slow
@pytest.mark.parametrize("step", STEPS)
def test_the_earlier_writer_ends_last(step: str, made: dict[str, str], tmp_path: Path) -> None:
    arguments, out = STEPS[step](Path(made["root"]), made), tmp_path / "out"
    with held(arguments, out) as earlier:
        subprocess.run([*command(*arguments), f"--output={out}"], check=True)
        assert_lost(*earlier.go_on())
    open_artifact(str(out)).verify()


@pytest.mark.slow
@pytest.mark.parametrize("step", STEPS)
def test_the_earlier_writer_ends_first(step: str, made: dict[str, str], tmp_path: Path) -> None:
    arguments, out = STEPS[step](Path(made["root"]), made), tmp_path / "out"
    with held(arguments, out) as earlier, held(arguments, out) as later:
        assert_lost(*earlier.go_on())
        with pytest.raises(InvalidInputError, match="has not finished"):
            open_artifact(str(out))
        code, said = later.go_on()
        assert code == 0, said
    open_artifact(str(out)).verify()


@pytest.mark.parametrize("root", ["{tmp}", "memory://writers"])
def test_no_write_of_the_earlier_one_gets_through(root: str, tmp_path: Path) -> None:
    """On an object store, too, where nothing is locked."""
    uri = f"{root.format(tmp=tmp_path)}/thing"
    earlier = begin(uri, "thing", {}, [], resume=True)
    info = earlier.put("data", b"same size: 1")
    later = begin(uri, "thing", {}, [], resume=True)
    assert later.read("data") == b"same size: 1"
    for write in (
        lambda: earlier.put("data", b"same size: 2"),
        lambda: earlier.remove("data"),
        lambda: earlier.commit([info], counts={}),
    ):
        with pytest.raises(StepFailedError, match="another run has begun"):
            write()
    later.commit([info], counts={})
    with pytest.raises(StepFailedError, match="another run has begun"):
        earlier.put("data", b"same size: 3")
    open_artifact(uri).verify()


@pytest.mark.parametrize("harm", ["removed", "cut"])
def test_a_manifest_is_not_written_over_files_that_are_not_there(harm: str, tmp_path: Path) -> None:
    draft = begin(str(tmp_path / "thing"), "thing", {}, [])
    info = draft.put("weights", b"content")
    if harm == "removed":
        (tmp_path / "thing" / "weights").unlink()
    else:
        (tmp_path / "thing" / "weights").write_bytes(b"cont")
    with pytest.raises(StepFailedError, match="weights: was removed or changed"):
        draft.commit([info], counts={})
    assert not (tmp_path / "thing" / "manifest.json").exists()


def test_a_lock_that_somebody_keeps_is_not_waited_for_without_end(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(drafts, "_LOCK_SECONDS", 0.2)
    draft = begin(str(tmp_path / "thing"), "thing", {}, [])
    folder = os.open(draft.uri, os.O_RDONLY)
    fcntl.flock(folder, fcntl.LOCK_EX)
    try:
        with pytest.raises(StepFailedError, match="another process keeps it locked"):
            draft.put("data", b"content")
    finally:
        os.close(folder)
    draft.put("data", b"content")


def zero(path: Path) -> None:
    data = path.read_bytes()
    path.write_bytes(data[:1000] + bytes(1000) + data[2000:])


def cut(path: Path) -> None:
    path.write_bytes(path.read_bytes()[:20])


def link(path: Path) -> None:
    path.rename(path.with_suffix(".elsewhere"))
    path.symlink_to(path.with_suffix(".elsewhere"))


@pytest.mark.parametrize("harm", [zero, cut, link, Path.unlink])
@pytest.mark.parametrize("name", ["train/00000-of-00001.avro", "progress/train/00000-of-00001.json"])
def test_a_job_that_goes_on_takes_no_shard_that_was_changed_meanwhile(
    harm: Callable[[Path], None], name: str, ingested: str, small_sample: Path, tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
) -> None:  # fmt: skip
    """As a machine may leave it that lost its power."""
    parameters = PreprocessParameters(
        allow_url_prefix=(str(small_sample),), image_size=64, licenses=("*",), split="0.8,0.1,0.1"
    )
    out = tmp_path / "out"
    with monkeypatch.context() as patch:
        patch.setattr("captionflow.preprocess.captions.commit", broken_off)
        with pytest.raises(StepFailedError, match="broken off"):
            run(ingested, str(out), parameters, [])
    harm(out / name)
    again = open_artifact(run(ingested, str(out), parameters, []))
    again.verify()
    whole = open_artifact(run(ingested, str(tmp_path / "whole"), parameters, []))
    assert again.manifest.sha256 == whole.manifest.sha256


def broken_off(*_: object) -> str:
    raise StepFailedError("broken off")

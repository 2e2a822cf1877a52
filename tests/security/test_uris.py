"""A URI chooses a place, never code: whoever gives it, whatever it is for."""

import json
import os
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from beam_jobs.preprocess import run
from captionflow.captioner.generate import caption
from captionflow.captioner.parameters import TrainParameters
from captionflow.captioner.train import train
from captionflow.core.artifact import open_artifact
from captionflow.core.draft import begin
from captionflow.core.errors import InvalidInputError
from captionflow.core.lineage import lineage
from captionflow.core.manifest import FileInfo
from captionflow.core.runs import artifact_uri
from captionflow.core.uris import SCHEMES_VARIABLE, file_system, resolve
from captionflow.evaluation.evaluate import evaluate
from captionflow.evaluation.parameters import EvaluateParameters
from captionflow.images.attempts import FetchError
from captionflow.preprocess.parameters import PreprocessParameters
from captionflow.sources.csv_export import export_csv
from captionflow.sources.ingest import ingest
from captionflow.sources.parameters import IngestParameters
from captionflow.validation.parameters import ValidateParameters
from captionflow.validation.validate import validate
from captionflow.web.access import Access
from tests.processes import captionflow
from tests.s3 import KEYS
from tests.test_fetch import failure, fetcher

pytestmark = pytest.mark.security

USES: dict[str, Callable[[str, str], object]] = {
    "--sources": lambda uri, out: ingest(out, IngestParameters(sources=(uri,))),
    "--ingested": lambda uri, out: run(uri, out, PreprocessParameters(), []),
    "--ingested of csv": lambda uri, out: export_csv(uri, out),
    "--ingested of validate": lambda uri, out: validate(uri, out, ValidateParameters()),
    "--preprocessed": lambda uri, out: train(uri, out, TrainParameters()),
    "--model": lambda uri, out: evaluate(uri, uri, out, EvaluateParameters()),
    "--output": lambda uri, out: begin(uri, "thing", {}, []),
    "lineage URI": lambda uri, out: lineage(uri),
}


@pytest.fixture
def code(tmp_path: Path) -> tuple[str, Path]:
    """A file that runs a command when the `reference` file system opens it, and what the command makes."""
    proof = tmp_path / "proof"
    template = "{{ cycler.__init__.__globals__.os.system('touch " + str(proof) + "') }}"
    attack = {"version": 1, "gen": [{"key": template, "url": "x", "dimensions": {"i": [0]}}]}
    file = tmp_path / "references.json"
    file.write_text(json.dumps(attack))
    return str(file), proof


@pytest.mark.parametrize("form", ["reference://::{}", "reference://::file://{}", "simplecache::reference://::{}"])
@pytest.mark.parametrize("use", USES)
def test_no_uri_runs_code(use: str, form: str, code: tuple[str, Path], tmp_path: Path) -> None:
    file, proof = code
    with pytest.raises(InvalidInputError):
        USES[use](form.format(file), str(tmp_path / "out"))
    assert not proof.exists()


def test_the_command_line_says_so_in_one_line(code: tuple[str, Path], tmp_path: Path) -> None:
    done = captionflow("ingest", "--sources", f"reference://::{code[0]}", "--output", str(tmp_path / "out"))
    assert done.returncode == 2
    assert done.stderr.count("\n") == 1
    assert not code[1].exists()
    assert not (tmp_path / "out").exists()


def test_a_picture_to_caption_is_a_place_too(model: str, code: tuple[str, Path]) -> None:
    with pytest.raises(InvalidInputError):
        list(caption([f"reference://::{code[0]}"], model, 1))
    assert not code[1].exists()


@pytest.mark.parametrize(
    "uri",
    ["http://host/a", "https://host/a", "reference://a", "ftp://host/a", "github://o:r@/a", "dask://a", "memory2://a",
     "FILE:///a", "gs://bucket/a::b", "/folder/a::b", "/folder/a\0b", "zip://a", "s3+x://a"],
)  # fmt: skip
def test_what_is_not_opened(uri: str) -> None:
    with pytest.raises(InvalidInputError):
        file_system(uri)


@given(st.from_regex(r"[a-z][a-z0-9+.-]{0,12}", fullmatch=True))
def test_only_listed_schemes_are_opened(scheme: str) -> None:
    if scheme not in ("file", "gs", "s3", "abfs", "az", "memory"):
        with pytest.raises(InvalidInputError, match=SCHEMES_VARIABLE):
            file_system(f"{scheme}://host/path")


def test_a_deployment_opens_more_and_a_run_does_not(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv(SCHEMES_VARIABLE, "")
    with pytest.raises(InvalidInputError):
        file_system("memory://a")
    monkeypatch.setenv(SCHEMES_VARIABLE, "ftp, memory")
    assert file_system("memory://a")[1] == "/a"


@pytest.mark.parametrize("path", ["local:/etc/passwd", "file:/etc/passwd", "data:text/plain,x", "C:/x"])
def test_a_path_that_looks_like_a_uri_is_a_path(path: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    assert file_system(path)[1] == str(tmp_path / path)


def test_a_chain_does_not_get_past_a_link(small_sample: Path, tmp_path: Path) -> None:
    """`allowed/link::x` was judged as a path that is not there, and opened as the link."""
    allowed, secret = tmp_path / "allowed", tmp_path / "secret.jpg"
    secret.write_bytes(next((small_sample / "images").iterdir()).read_bytes())
    allowed.mkdir()
    (allowed / "link.jpg").symlink_to(secret)
    for url in (f"{allowed}/link.jpg::x", f"file://{allowed}/link.jpg::x", f"{allowed}/link.jpg"):
        with pytest.raises(FetchError) as refused:
            failure_of(url, str(allowed))
        assert refused.value.reason in ("invalid_url", "url_not_allowed")


def failure_of(url: str, prefix: str) -> None:
    raise failure(fetcher(prefix), url)


def test_a_prefix_of_a_chain_opens_nothing() -> None:
    access = Access.of(PreprocessParameters(allow_url_prefix=("/data",)))
    assert not access.is_open("reference://::/data/x")


@pytest.mark.parametrize("path", ["../x", "/etc/passwd", "a/../../x", "a//b", ".", "", "a/./b", "a\\..\\b", "a\0"])
def test_a_manifest_names_no_file_outside_of_its_folder(path: str, tmp_path: Path) -> None:
    with pytest.raises(ValueError, match="not a path within"):
        FileInfo(path, 1, "00")
    (tmp_path / "x").write_bytes(b"s")
    (tmp_path / "thing").mkdir()
    file = {"path": path, "bytes": 1, "sha256": "00"}
    manifest = {"kind": "thing", "parameters": {}, "parents": [], "code_version": "1", "files": [file]}
    (tmp_path / "thing" / "manifest.json").write_text(json.dumps(manifest))
    with pytest.raises(InvalidInputError, match="is not a manifest"):
        open_artifact(str(tmp_path / "thing"))


def test_manifests_that_lead_in_circles_come_to_an_end(tmp_path: Path) -> None:
    for name, parent in (("a", "b"), ("b", "a")):
        parents = [{"kind": "thing", "uri": str(tmp_path / parent), "sha256": "00"}] * 30
        manifest = {"kind": "thing", "parameters": {}, "parents": parents, "code_version": "1", "files": []}
        (tmp_path / name).mkdir()
        (tmp_path / name / "manifest.json").write_text(json.dumps(manifest))
    done = captionflow("lineage", str(tmp_path / "a"))
    assert done.returncode == 0, done.stderr
    assert "changed since it was used" in done.stdout


def test_a_manifest_nested_without_end_is_one_line(tmp_path: Path) -> None:
    (tmp_path / "manifest.json").write_text("[" * 100_000)
    done = captionflow("lineage", str(tmp_path))
    assert (done.returncode, done.stderr.count("\n")) == (2, 1)


def test_a_manifest_too_large_to_be_one_is_not_read(tmp_path: Path) -> None:
    with (tmp_path / "manifest.json").open("wb") as file:
        file.truncate(1 << 40)
    with pytest.raises(InvalidInputError, match="is larger than 64 MiB"):
        open_artifact(str(tmp_path))


@pytest.mark.parametrize(
    "change",
    [{"parameters": "x"}, {"counts": []}, {"metrics": 5}, {"metrics": {"bleu": "0"}}, {"run": "x"}, {"kind": {}},
     {"code_version": 1},
     {"parents": [{"kind": "a", "uri": 5, "sha256": "0"}]}, {"parents": 5}, {"files": {"a": 1}}],
)  # fmt: skip
def test_a_manifest_of_other_types_is_one_line(change: dict[str, object], tmp_path: Path) -> None:
    whole = {"kind": "thing", "parameters": {}, "parents": [], "code_version": "1", "files": []}
    (tmp_path / "manifest.json").write_text(json.dumps({**whole, **change}))
    with pytest.raises(InvalidInputError, match="is not a manifest"):
        open_artifact(str(tmp_path))


@pytest.mark.parametrize(
    "command",
    [["lineage"], ["csv", "--output", "{tmp}/out", "--ingested"], ["sample", "--output"],
     ["ingest", "--output", "{tmp}/out", "--sources"]],
)  # fmt: skip
@pytest.mark.parametrize(
    ("environment", "said"),
    [({}, "Unable to locate credentials"), ({**KEYS, "AWS_ENDPOINT_URL": "http://127.0.0.1:9"}, "127.0.0.1:9")],
)
def test_a_store_that_cannot_be_used_is_one_line_and_worth_another_try(
    command: list[str], environment: dict[str, str], said: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    for name in [name for name in os.environ if name.startswith("AWS_")]:
        monkeypatch.delenv(name)
    for name, value in {
        **environment, "AWS_EC2_METADATA_DISABLED": "true", "AWS_MAX_ATTEMPTS": "1", "HOME": str(tmp_path),
    }.items():  # fmt: skip
        monkeypatch.setenv(name, value)
    done = captionflow(*(word.format(tmp=tmp_path) for word in command), "s3://bucket/thing")
    assert done.returncode == 1, done.stderr
    assert said in done.stderr.strip().splitlines()[-1]
    assert "Traceback" not in done.stderr


def test_a_path_with_a_typo_is_no_unfinished_artifact(tmp_path: Path) -> None:
    with pytest.raises(InvalidInputError, match="there is no such artifact; check the path"):
        open_artifact(str(tmp_path / "typo"))


@pytest.mark.parametrize("uri", ["gs://", "s3:///", "memory://"])
def test_a_store_without_a_bucket_is_no_local_folder(uri: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    for use in (resolve, lambda uri: artifact_uri(uri, "p", "r", "k")):
        with pytest.raises(InvalidInputError, match=r"names no bucket|is empty"):
            use(uri)
    assert list(tmp_path.iterdir()) == []


def test_a_folder_too_deep_to_be_made_is_the_users_to_mend(tmp_path: Path) -> None:
    done = captionflow("sample", "--output", f"{tmp_path}/{'x/' * 3000}")
    assert (done.returncode, done.stderr.count("\n")) == (2, 1)


def test_a_manifest_whose_values_lie_deep_is_one_line(tmp_path: Path) -> None:
    deep = json.loads('{"a": ' * 400 + "1" + "}" * 400)
    whole = {"kind": "thing", "parameters": deep, "parents": [], "code_version": "1", "files": []}
    (tmp_path / "manifest.json").write_text(json.dumps(whole))
    done = captionflow("lineage", str(tmp_path))
    assert (done.returncode, done.stderr.count("\n")) == (2, 1)


def test_a_full_standard_output_is_one_line_that_names_the_artifact(tmp_path: Path) -> None:
    with Path("/dev/full").open("w") as full:
        done = subprocess.run(
            [sys.executable, "-m", "captionflow", "sample", "--images=2", "--output", str(tmp_path / "out")],
            stdout=full, stderr=subprocess.PIPE, text=True, check=False,
        )  # fmt: skip
    assert done.returncode == 1
    assert f"the artifact is complete: {tmp_path}/out" in done.stderr.splitlines()[-1]
    assert "Traceback" not in done.stderr

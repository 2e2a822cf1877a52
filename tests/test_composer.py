"""The package for Cloud Composer, in a Python that holds what Composer's does: Airflow 3.1, no TFX, no torch."""

import json
import os
import re
import sqlite3
import subprocess
import sys
from collections.abc import Iterator
from contextlib import closing
from pathlib import Path
from zipfile import ZipFile

import httpx
import pytest

from captionflow.core.code_version import code_version
from kfp_pipeline.parameters import CompileParameters
from kfp_pipeline.pipeline import compile_pipeline
from tests.composer_python import IMAGE, ROOT, UV, Composer, build, package, wheel_of
from tests.package_index import TOKEN, USER
from tests.processes import answers, free_port, wait_until
from tests.test_deploy import Cloud, cloud_in

LOCK = ROOT / "requirements.lock"
PACKAGES = {"beam_jobs", "captionflow", "kfp_pipeline", "tfx_pipeline"}
STARTING = 240
"""Seconds that a busy machine may take to start Airflow's API server, or one of its commands."""


@pytest.fixture(scope="module")
def packaged(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("package")
    # A compiled pipeline with parameters, which takes no minute to compile.
    compile_pipeline(CompileParameters(), str(folder / "spec.json"))
    done = package(folder / "composer", "--spec", str(folder / "spec.json"))
    assert done.returncode == 0, done.stderr
    return folder / "composer"


def files(folder: Path) -> dict[str, bytes]:
    return {str(path.relative_to(folder)): path.read_bytes() for path in folder.rglob("*") if path.is_file()}


def test_the_package_is_what_composer_can_run_and_no_more(packaged: Path) -> None:
    dags = {path.name for path in (packaged / "dags").iterdir()}
    assert dags == {"image_captioning.py", "image_captioning_vertex.py", "image_captioning_vertex.json"}
    wheel = wheel_of(packaged).name
    assert {path.name for path in packaged.iterdir()} == {"dags", "sample", "requirements.txt", wheel}
    assert wheel == f"captionflow-{code_version()}-py3-none-any.whl"
    with ZipFile(packaged / wheel) as content:
        names = set(content.namelist())
    assert {"captionflow/evaluation/report.html.j2", "captionflow/validation/report.html.j2"} <= names
    assert {name.split("/")[0] for name in names if ".dist-info" not in name} == PACKAGES
    listed = subprocess.run(["git", "ls-files"], cwd=ROOT, capture_output=True, text=True, check=True)
    assert {name for name in names if name.endswith(".py")} <= set(listed.stdout.split())


def test_the_requirements_are_the_locks_and_hold_nothing_heavy(packaged: Path) -> None:
    lines = (packaged / "requirements.txt").read_text().split()
    names = {line.partition("==")[0] for line in lines}
    assert {"ijson", "pillow"} <= names
    assert not names & {"torch", "tfx", "tensorflow", "apache-airflow", "apache-beam", "fsspec", "numpy", "s3fs"}
    # Composer replaces what its image holds by what is asked for; its own version is to stay.
    assert not names & {line.partition("==")[0] for line in IMAGE.read_text().splitlines()}
    assert lines[0] == f"captionflow=={code_version()}"
    assert set(lines[1:]) <= {line.removesuffix(" \\") for line in LOCK.read_text().splitlines()}


def test_the_same_checkout_gives_the_same_package_whatever_was_built_there(packaged: Path) -> None:
    stale = ROOT / "build" / "lib" / "captionflow" / "stale.py"
    stale.parent.mkdir(parents=True, exist_ok=True)
    stale.touch()
    before = {name: content for name, content in files(packaged).items() if "manifest" not in name}
    try:
        assert package(packaged, "--spec", str(packaged.parent / "spec.json")).returncode == 0
    finally:
        stale.unlink()
    assert {name: content for name, content in files(packaged).items() if "manifest" not in name} == before


@pytest.mark.parametrize("arguments", [("--spec", "/nowhere.json"), ()])
def test_what_cannot_be_packaged_is_one_line(tmp_path: Path, arguments: tuple[str, ...]) -> None:
    (tmp_path / "precious").write_text("not ours")
    done = package(tmp_path, *arguments)
    assert done.returncode == 2
    assert len(done.stderr.splitlines()) == 1
    assert (tmp_path / "precious").read_text() == "not ours"


@pytest.fixture
def cloud(packaged: Path, tmp_path: Path) -> Iterator[Cloud]:
    """What the package is deployed to."""
    (tmp_path / "cloud").mkdir()
    with cloud_in(tmp_path / "cloud") as cloud:
        cloud.package = packaged
        yield cloud


def test_pip_installs_the_published_wheel_as_pip_conf_says(cloud: Cloud, tmp_path: Path) -> None:
    """In Composer a keyring shows the token; here it is .netrc."""
    done = cloud.deploy("--no-smoke-run")
    assert done.returncode == 0, done.stderr
    (tmp_path / ".netrc").write_text(f"machine 127.0.0.1 login {USER} password {TOKEN}\n")
    (tmp_path / ".netrc").chmod(0o600)
    elsewhere = {"HOME": str(tmp_path), "PIP_INDEX_URL": f"{cloud.index}/nothing-of-ours/simple"}
    configured = {"PIP_CONFIG_FILE": str(cloud.home / "the-bucket" / "config" / "pip" / "pip.conf")}
    target = tmp_path / "installed"
    command = [sys.executable, "-m", "pip", "install", "--quiet", "--no-deps", "--no-cache-dir", "--target", target]
    for environment, code in ((elsewhere, 1), (elsewhere | configured, 0)):
        pip = subprocess.run(
            [*command, f"captionflow=={code_version()}"], env=os.environ | environment, capture_output=True, text=True,
            check=False,
        )  # fmt: skip
        assert pip.returncode == code, pip.stderr
    told = subprocess.run(
        [sys.executable, "-m", "captionflow", "--version"], cwd=target, capture_output=True, text=True, check=True
    )
    assert told.stdout == f"{code_version()}\n"


@pytest.fixture(scope="module")
def python(packaged: Path) -> Path:
    return build("composer", packaged, IMAGE)


@pytest.fixture(scope="module")
def composer(python: Path, packaged: Path, tmp_path_factory: pytest.TempPathFactory) -> Composer:
    return Composer(python, packaged, tmp_path_factory.mktemp("composer"))


@pytest.mark.composer
@pytest.mark.slow
def test_the_requirements_fit_what_composer_has(python: Path) -> None:
    done = subprocess.run([UV, "pip", "check", "--python", python], capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr


@pytest.mark.composer
@pytest.mark.slow
def test_every_dag_imports_there_without_tfx_and_torch_in_time_and_unwarned(composer: Composer, packaged: Path) -> None:
    absent = ("tfx", "tensorflow", "torch", "kfp", "pycocoevalcap")
    assert composer.tell(
        f"import importlib.util as u, json; print(json.dumps([u.find_spec(n) for n in {absent}]))"
    ) == [None for _ in absent]
    bag = composer.tell("""
import json, warnings
from pathlib import Path
from airflow import settings
from airflow.models.dagbag import BundleDagBag
with warnings.catch_warnings(record=True) as caught:
    warnings.simplefilter("always")
    bag = BundleDagBag(settings.DAGS_FOLDER, bundle_path=Path(settings.DAGS_FOLDER))
print(json.dumps({
    "fields": list(bag.dags["image_captioning_vertex"].params) if bag.dags else [],
    "errors": bag.import_errors,
    "dags": sorted(bag.dags),
    "seconds": {stat.file: stat.duration.total_seconds() for stat in bag.dagbag_stats},
    "warnings": [[warning.category.__name__, warning.filename, str(warning.message)] for warning in caught],
}))
""")
    print("seconds to import:", bag["seconds"])
    # Airflow counts among these what took longer than it allows, 30 seconds.
    assert bag["errors"] == {}
    assert bag["dags"] == ["image_captioning", "image_captioning_vertex"]
    # The compiled pipeline lies where the DAG looks for it.
    assert "epochs" in bag["fields"]
    airflows = re.compile("RemovedIn|Airflow.*Deprecat")
    ours = re.compile(rf"^{packaged}/|/site-packages/({'|'.join(PACKAGES)})/")
    assert [told for told in bag["warnings"] if ours.search(told[1]) or airflows.search(told[0])] == []


@pytest.mark.composer
@pytest.mark.slow
def test_the_web_server_has_the_plugin_without_the_dags(composer: Composer, tmp_path: Path) -> None:
    port = free_port()
    with (tmp_path / "log").open("w") as log:
        server = subprocess.Popen(
            [composer.python, "-m", "airflow", "api-server", "--host", "127.0.0.1", "--port", str(port)],
            env=composer.env | {"AIRFLOW__CORE__DAGS_FOLDER": str(tmp_path)}, stdout=log, stderr=log,
        )  # fmt: skip
    try:
        url = f"http://127.0.0.1:{port}"
        wait_until(lambda: server.poll() is not None or answers(f"{url}/api/v2/version"), STARTING)
        # Who is not logged in is refused; where there is no plugin, nothing is found.
        page = httpx.get(f"{url}/captionflow/report/image_captioning/a_run/evaluate", timeout=STARTING)
        assert page.status_code == 401, (tmp_path / "log").read_text()[-4000:]
    finally:
        server.terminate()
        server.wait()


@pytest.mark.composer
@pytest.mark.slow
def test_ingest_validate_and_preprocess_run_there(composer: Composer, packaged: Path, small_sample: Path) -> None:
    # Training needs what Composer does not have.
    made = composer.run_dag(small_sample, "--mark-success-pattern", "(?!ingest$|validate$|preprocess$).+")
    assert made.keys() == {"ingested", "validation", "preprocessed"}
    made["preprocessed"].verify()
    manifest = made["preprocessed"].manifest
    assert manifest.counts["images"]["out"] == 60
    assert manifest.code_version == code_version()
    assert "+g" in manifest.code_version


@pytest.mark.composer
@pytest.mark.slow
def test_deploy_speaks_to_composers_airflow(python: Path, packaged: Path, cloud: Cloud, tmp_path: Path) -> None:
    """Each command that deploy.sh has gcloud run there is run by that Airflow, on a database of its own."""
    (tmp_path / "home").mkdir()
    airflow = Composer(python, packaged, tmp_path / "home")
    (tmp_path / "variables.json").write_text('{"a_name": "a value"}')

    def tell(query: str) -> list[tuple[object, ...]]:
        with closing(sqlite3.connect(tmp_path / "home" / "airflow.db", isolation_level=None)) as database:
            return database.execute(query).fetchall()

    process = cloud.start(
        "--variables", str(tmp_path / "variables.json"), "--conf", '{"epochs": 2}',
        **{name: value for name, value in airflow.env.items() if name.startswith(("AIRFLOW", "CAPTIONFLOW"))},
        GCLOUD_AIRFLOW=str(python),
    )  # fmt: skip
    try:
        # Airflow has not read the DAG yet; deploy.sh waits for it.
        wait_until(lambda: "dags details" in cloud.verbs or process.poll() is not None, STARTING)
        assert "dags unpause" not in cloud.verbs
        done = airflow.run("-m", "airflow", "dags", "reserialize")
        assert done.returncode == 0, done.stderr[-3000:]
        wait_until(lambda: bool(tell("SELECT * FROM dag_run")) or process.poll() is not None, STARTING)
        tell("UPDATE dag_run SET state = 'success'")
        _, said = process.communicate(timeout=STARTING)
    finally:
        process.terminate()
        process.wait()
    assert process.returncode == 0, said
    assert tell("SELECT conn_type FROM connection WHERE conn_id = 'google_cloud_default'") == [
        ("google_cloud_platform",)
    ]
    assert tell("SELECT key FROM variable") == [("a_name",)]
    assert tell("SELECT is_paused FROM dag WHERE dag_id = 'image_captioning'") == [(0,)]
    ((run_id, conf),) = tell("SELECT run_id, conf FROM dag_run")
    assert str(run_id).startswith("deploy__")
    assert json.loads(str(conf)) == {"epochs": 2}

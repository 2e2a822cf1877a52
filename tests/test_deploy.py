"""deploy/composer/deploy.sh: what it asks of gcloud, in which order, how often, and how it ends when it cannot."""

import json
import os
import shutil
import subprocess
import zipfile
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest

from tests.composer_python import UV
from tests.package_index import TOKEN, package_index

ROOT = Path(__file__).parents[1]
SCRIPT = ROOT / "deploy" / "composer" / "deploy.sh"
NEEDED = {
    "--project": "a-project", "--location": "europe-west4", "--environment": "captionflow",
    "--service-account": "airflow@a-project.iam.gserviceaccount.com", "--artifact-root": "gs://a-bucket/captionflow",
}  # fmt: skip
CHANGES = ("create", "update")


class Cloud:
    """A package, a stand-in for gcloud, and what it was asked."""

    def __init__(self, home: Path, index: str) -> None:
        self.home, self.index = home, index
        self.package, self.published = home / "package", home / "published"
        for name, content in {
            "dags/image_captioning.py": "one", "dags/gone.py": "two", "sample/captions.json": "{}",
        }.items():  # fmt: skip
            file = self.package / name
            file.parent.mkdir(parents=True, exist_ok=True)
            file.write_text(content)
        self.build("0.1.0+g1")
        (home / "bin").mkdir()
        for tool in ("gcloud", "uv"):
            shutil.copy(ROOT / "tests" / "recording_gcloud.py", home / "bin" / tool)
        (home / "states").write_text("running success")

    def build(self, version: str, *requirements: str) -> None:
        """Give the package a wheel of a version, and say what is to be installed beside it."""
        name = f"captionflow-{version}"
        metadata = f"Metadata-Version: 2.1\nName: captionflow\nVersion: {version}\n"
        files = {"METADATA": metadata, "WHEEL": "Wheel-Version: 1.0\nRoot-Is-Purelib: true\nTag: py3-none-any\n"}
        with zipfile.ZipFile(self.package / f"{name}-py3-none-any.whl", "w") as wheel:
            for file, content in files.items():
                wheel.writestr(f"{name}.dist-info/{file}", content)
            wheel.writestr(f"{name}.dist-info/RECORD", "".join(f"{name}.dist-info/{file},,\n" for file in files))
        lines = (f"captionflow=={version}", *(requirements or ("ijson==3.6.0", "typer==0.29.2")))
        (self.package / "requirements.txt").write_text("".join(f"{line}\n" for line in lines))

    def deploy(self, *options: str, without: str = "", **environment: str) -> subprocess.CompletedProcess[str]:
        process = self.start(*options, without=without, **environment)
        out, err = process.communicate()
        return subprocess.CompletedProcess(process.args, process.returncode, out, err)

    def start(self, *options: str, without: str = "", **environment: str) -> subprocess.Popen[str]:
        """Begin to deploy in a process group of its own, as a terminal would."""
        needed = [word for pair in NEEDED.items() if pair[0] != without for word in pair]
        (self.home / "commands").write_text("")
        return subprocess.Popen(
            [SCRIPT, *needed, "--package", str(self.package), *options],
            env=os.environ
            | {"PATH": f"{self.home / 'bin'}:{os.environ['PATH']}", "GCLOUD_HOME": str(self.home), "REAL_UV": UV}
            | {"GCLOUD_TOKEN": TOKEN, "GCLOUD_INDEX": self.index, "DEPLOY_PAUSE": "0"}
            | environment,
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE,
            text=True,
            start_new_session=True,
        )

    @property
    def commands(self) -> list[list[str]]:
        return [json.loads(line) for line in (self.home / "commands").read_text().splitlines()]

    @property
    def verbs(self) -> list[str]:
        """Each command in a word or two, without those that only look."""
        verbs = []
        for command in self.commands:
            if command[:2] == ["composer", "environments"]:
                verbs.append(" ".join(command[8:10]) if command[2] == "run" else command[2])
            elif command[0] == "storage":
                verbs.append(" ".join([command[1], command[-1].removeprefix("gs://")]))
            else:
                verbs.append(" ".join(command[:3] if command[0] == "artifacts" else command[:2]))
        return [verb for verb in verbs if not {"list", "describe", "print-settings"} & {*verb.split()}]


@contextmanager
def cloud_in(home: Path) -> Iterator[Cloud]:
    """A cloud in a folder, with its Python repository on a server of its own."""
    with package_index(home / "published", "/a-project/captionflow-python") as index:
        yield Cloud(home, index)


@pytest.fixture
def cloud(tmp_path: Path) -> Iterator[Cloud]:
    with cloud_in(tmp_path) as cloud:
        yield cloud


def test_an_empty_project_gets_everything_in_order(cloud: Cloud) -> None:
    done = cloud.deploy()
    assert done.returncode == 0, done.stderr
    assert cloud.verbs == [
        "create", "artifacts repositories create", "auth print-access-token", "uv publish",
        "cp the-bucket/config/pip/pip.conf", "update", "rsync the-bucket/plugins", "rsync the-bucket/dags",
        "cp the-bucket/data/captionflow/connections.json", "connections import",
        "rm the-bucket/data/captionflow/connections.json", "rsync a-bucket/captionflow/sample",
        "dags details", "dags unpause", "dags trigger", "dags state", "dags state",
    ]  # fmt: skip
    software = json.loads((cloud.home / "environment.json").read_text())["config"]["softwareConfig"]
    assert software["pypiPackages"] == {"captionflow": "==0.1.0+g1", "ijson": "==3.6.0", "typer": "==0.29.2"}
    assert software["envVariables"] == {
        "CAPTIONFLOW_ARTIFACT_ROOT": "gs://a-bucket/captionflow",
        "CAPTIONFLOW_VERTEX_PROJECT": "a-project",
        "CAPTIONFLOW_VERTEX_REGION": "europe-west4",
        "CAPTIONFLOW_VERTEX_PIPELINE_ROOT": "gs://a-bucket/captionflow/vertex",
        "CAPTIONFLOW_VERTEX_SERVICE_ACCOUNT": NEEDED["--service-account"],
    }
    for command in cloud.commands:
        if command[0] in ("composer", "artifacts"):
            assert command[command.index("--project") + 1] == "a-project"
    assert not list((cloud.home / "the-bucket" / "data").rglob("*.json"))


def test_a_second_time_changes_no_environment(cloud: Cloud) -> None:
    assert cloud.deploy().returncode == 0
    before = (cloud.home / "environment.json").read_text()
    assert cloud.deploy().returncode == 0
    assert not set(cloud.verbs) & set(CHANGES)
    assert "uv publish" not in cloud.verbs
    assert (cloud.home / "environment.json").read_text() == before


@pytest.mark.parametrize(
    ("change", "flag"),
    [
        (("0.1.0+g1", "ijson==3.6.0"), "--update-pypi-packages-from-file"),
        (("0.1.0+g1", "ijson==3.7.0", "typer==0.29.2"), "--update-pypi-packages-from-file"),
        (("0.1.0+g2",), "--update-pypi-packages-from-file"),
        ((), "--update-env-variables"),
    ],
)
def test_only_what_differs_is_updated(cloud: Cloud, change: tuple[str, ...], flag: str) -> None:
    assert cloud.deploy().returncode == 0
    if change:
        cloud.build(*change)
    options = () if change else ("--vertex-root", "gs://another-bucket")
    assert cloud.deploy(*options, "--no-smoke-run").returncode == 0
    (update,) = [command for command in cloud.commands if command[2:3] in [[verb] for verb in CHANGES]]
    assert flag in update
    assert not [verb for verb in cloud.verbs if verb.startswith("dags")]
    assert ("uv publish" in cloud.verbs) == (change == ("0.1.0+g2",))


def test_no_command_line_and_no_output_shows_the_token(cloud: Cloud) -> None:
    done = cloud.deploy()
    assert "uv publish" in cloud.verbs
    assert TOKEN not in done.stdout + done.stderr + json.dumps(cloud.commands)


def test_settings_become_variables_whatever_is_in_them(cloud: Cloud) -> None:
    options = '{"DataflowRunner": {"max_num_workers": 7, "network": "a b"}}'
    settings = ("--set", "TRAIN_ON=vertex", "--set", f"BEAM_OPTIONS={options}")
    for _ in range(2):
        assert cloud.deploy(*settings, "--no-smoke-run").returncode == 0
    assert not set(cloud.verbs) & set(CHANGES)
    variables = json.loads((cloud.home / "environment.json").read_text())["config"]["softwareConfig"]["envVariables"]
    assert (variables["CAPTIONFLOW_TRAIN_ON"], variables["CAPTIONFLOW_BEAM_OPTIONS"]) == ("vertex", options)


def test_variables_that_others_set_stay(cloud: Cloud) -> None:
    assert cloud.deploy().returncode == 0
    file = cloud.home / "environment.json"
    environment = json.loads(file.read_text())
    environment["config"]["softwareConfig"]["envVariables"]["THEIRS"] = "1"
    file.write_text(json.dumps(environment))
    assert cloud.deploy().returncode == 0
    assert not set(cloud.verbs) & set(CHANGES)


def test_what_is_gone_is_deleted_and_composers_own_dag_stays(cloud: Cloud) -> None:
    assert cloud.deploy().returncode == 0
    dags = cloud.home / "the-bucket" / "dags"
    (dags / "airflow_monitoring.py").write_text("composer's")
    (cloud.package / "dags" / "gone.py").unlink()
    assert cloud.deploy().returncode == 0
    assert sorted(path.name for path in dags.iterdir()) == ["airflow_monitoring.py", "image_captioning.py"]


def test_what_an_earlier_version_left_in_plugins_is_deleted(cloud: Cloud) -> None:
    assert cloud.deploy().returncode == 0
    left = cloud.home / "the-bucket" / "plugins" / "captionflow" / "old.py"
    left.parent.mkdir(parents=True)
    left.write_text("old")
    assert cloud.deploy().returncode == 0
    assert not left.exists()


def test_airflow_variables_are_imported_and_their_file_is_removed(cloud: Cloud, tmp_path: Path) -> None:
    (tmp_path / "variables.json").write_text('{"a": "b"}')
    assert cloud.deploy("--variables", str(tmp_path / "variables.json"), "--no-smoke-run").returncode == 0
    assert cloud.verbs[-3:] == [
        "cp the-bucket/data/captionflow/variables.json", "variables import",
        "rm the-bucket/data/captionflow/variables.json",
    ]  # fmt: skip


def test_the_run_is_given_what_the_form_would_be(cloud: Cloud) -> None:
    assert cloud.deploy("--conf", '{"epochs": 2}').returncode == 0
    (trigger,) = [command for command in cloud.commands if "trigger" in command]
    assert trigger[-2:] == ["--conf", '{"epochs": 2}']


def test_a_dry_run_prints_every_action_and_runs_none(cloud: Cloud) -> None:
    (cloud.home / "bin" / "gcloud").unlink()
    done = cloud.deploy("--dry-run")
    assert done.returncode == 0, done.stderr
    assert cloud.commands == []
    actions = done.stdout.splitlines()
    assert all(action.startswith(("gcloud ", "uv ")) for action in actions)
    for action in ("repositories create captionflow-python", "artifacts print-settings python", "uv publish",
                   "config/pip/pip.conf",
                   "environments create captionflow", "--update-pypi-packages-from-file", "--update-env-variables",
                   "connections import", "dags trigger", "dags state"):  # fmt: skip
        assert len([line for line in actions if action in line]) == 1, action


@pytest.mark.parametrize("name", NEEDED)
def test_a_missing_argument_is_one_line(cloud: Cloud, name: str) -> None:
    done = cloud.deploy(without=name)
    assert (done.returncode, done.stderr) == (2, f"deploy.sh: {name}: is missing; see --help\n")
    assert cloud.commands == []


@pytest.mark.parametrize(
    "options",
    [
        ("--nonsense", "1"), ("word",), ("--size",), ("--size", "huge"), ("--artifact-root", "/tmp"),
        ("--artifact-root", "gs://b/a,EVIL=1"), ("--project", "$(touch evil)"), ("--environment", "-x"),
        ("--package", "/nowhere"), ("--variables", "/nowhere.json"), ("--conf", "[]"), ("--conf", "{"),
        ("--image-version", "composer-2-airflow-2.11"), ("--set", "train_on=vertex"), ("--set", "A=1|EVIL=1"),
    ],
)  # fmt: skip
def test_a_wrong_argument_is_one_line(cloud: Cloud, options: tuple[str, ...]) -> None:
    done = cloud.deploy(*options)
    assert done.returncode == 2
    assert len(done.stderr.splitlines()) == 1
    assert done.stderr.startswith("deploy.sh: ")
    assert cloud.commands == []


def test_a_missing_gcloud_is_one_line(cloud: Cloud) -> None:
    tools = cloud.home / "tools"
    tools.mkdir()
    for tool in ("bash", "env", "dirname", "sed", "python3"):
        (tools / tool).symlink_to(str(shutil.which(tool)))
    done = cloud.deploy(PATH=str(tools))
    assert (done.returncode, done.stderr) == (2, "deploy.sh: gcloud is not installed\n")


@pytest.mark.parametrize(
    "fault",
    [
        "environments list",
        "environments create",
        "repositories create",
        "print-access-token",
        "uv publish",
        "--update-pypi",
        "storage rsync",
        "dags trigger",
    ],
)
def test_what_gcloud_refuses_ends_the_deployment_there(cloud: Cloud, fault: str) -> None:
    done = cloud.deploy(GCLOUD_FAILS_AT=fault)
    assert done.returncode == 1
    assert f"{fault}: denied" in done.stderr
    assert fault in " ".join(cloud.commands[-1])
    # Begun again, it ends as if nothing had been.
    assert cloud.deploy().returncode == 0


@pytest.mark.parametrize(
    ("states", "message"), [("running failed", "failed; see its logs"), ("running", "gave up waiting")]
)
def test_a_smoke_run_that_does_not_succeed_is_told(cloud: Cloud, states: str, message: str) -> None:
    (cloud.home / "states").write_text(states)
    done = cloud.deploy(DEPLOY_LOOKS="3")
    assert done.returncode == 1
    assert message in done.stderr


def test_help_teaches() -> None:
    done = subprocess.run([SCRIPT, "--help"], capture_output=True, text=True, check=True)
    for name in (*NEEDED, "--dry-run", "make composer-package"):
        assert name in done.stdout

"""The compose file and its secrets, as far as can be told without an engine."""

import base64
import json
import re
import shutil
import stat
import subprocess
from pathlib import Path
from typing import Any

import pytest
import yaml

ROOT = Path(__file__).parents[1]
TEXT = (ROOT / "docker-compose.yaml").read_text()
SERVICES: dict[str, dict[str, Any]] = yaml.safe_load(TEXT)["services"]
STAYING = {name: service for name, service in SERVICES.items() if name != "airflow-init"}
MEGABYTES = {"m": 1, "g": 1024}


AIRFLOW = {"airflow-api-server", "airflow-scheduler", "airflow-dag-processor", "airflow-triggerer"}
WORKERS = {"flink-taskmanager-1", "flink-taskmanager-2"}
FLINK = {"flink-jobmanager", "flink-job-server"} | WORKERS

MAY_REACH = {
    "postgres": AIRFLOW | {"airflow-init", "mlflow"},
    "mlflow": {"airflow-scheduler", "postgres"},
    "images": {"airflow-scheduler"} | WORKERS,
    "airflow-api-server": AIRFLOW | {"airflow-init", "postgres"},
    "flink-jobmanager": FLINK | {"airflow-scheduler"},
    "flink-job-server": FLINK | {"airflow-scheduler"},
    "flink-taskmanager-1": FLINK | {"airflow-scheduler", "images"},
    "flink-taskmanager-2": FLINK | {"airflow-scheduler", "images"},
}
"""Who shares a network with a service that listens. (The images' server does so with Flink's workers, which ask it.)"""

HOLDERS = {
    "FERNET_KEY": AIRFLOW | {"airflow-init"},
    "SECRET_KEY": {"airflow-api-server"},
    "JWT_SECRET": {"airflow-api-server", "airflow-scheduler"},
    "POSTGRES_PASSWORD": {"postgres"},
    "AIRFLOW_DATABASE_PASSWORD": AIRFLOW | {"airflow-init", "postgres"},
    "MLFLOW_DATABASE_PASSWORD": {"mlflow", "postgres"},
    "ADMIN_PASSWORD": {"airflow-init"},
}
"""Which services are given a secret."""


def environment(folder: Path) -> dict[str, str]:
    folder.mkdir(exist_ok=True)
    subprocess.run([ROOT / "docker" / "make-env.sh"], cwd=folder, check=True)
    return dict(line.split("=", 1) for line in (folder / ".env").read_text().splitlines())


def test_ports_are_open_to_this_machine_alone() -> None:
    ports = [port for service in SERVICES.values() for port in service.get("ports", [])]
    assert ports
    assert all(port.startswith("127.0.0.1:") for port in ports)


@pytest.mark.parametrize("name", STAYING)
def test_a_service_comes_back_tells_its_health_and_is_bounded(name: str) -> None:
    service = STAYING[name]
    assert service["restart"] == "unless-stopped"
    assert service["init"] is True
    assert service["healthcheck"]["test"]
    assert service["logging"]["options"]["max-size"]
    assert service["mem_limit"]


@pytest.mark.parametrize("name", SERVICES)
def test_a_service_has_no_more_rights_than_it_needs(name: str) -> None:
    service = SERVICES[name]
    assert service["security_opt"] == ["no-new-privileges:true"]
    assert service["cap_drop"] == ["ALL"]
    if name != "postgres":
        assert "cap_add" not in service
    assert not {"privileged", "user", "network_mode", "pid"} & service.keys()


@pytest.mark.parametrize("name", MAY_REACH)
def test_a_service_is_reached_by_those_that_need_it(name: str) -> None:
    networks = set(SERVICES[name]["networks"])
    assert {other for other in SERVICES if networks & set(SERVICES[other]["networks"])} == MAY_REACH[name] | {name}


def test_a_network_without_a_way_out_holds_the_database_and_the_images() -> None:
    inside = {name for name, options in yaml.safe_load(TEXT)["networks"].items() if options and options["internal"]}
    assert set(SERVICES["postgres"]["networks"] + SERVICES["images"]["networks"]) == inside


@pytest.mark.parametrize("secret", HOLDERS)
def test_a_secret_is_known_to_the_services_that_need_it(secret: str) -> None:
    assert {name for name, service in SERVICES.items() if f"${{{secret}:" in json.dumps(service)} == HOLDERS[secret]


@pytest.mark.parametrize("name", SERVICES)
def test_a_service_gets_secrets_in_its_environment_alone(name: str) -> None:
    # What a command, a health check or a build is given stands in process lists and in the image.
    others = {key: value for key, value in SERVICES[name].items() if key != "environment"}
    assert not re.findall(r"\$\{\w+", json.dumps(others))


def test_all_of_it_fits_into_6_gigabytes() -> None:
    limits = [service["mem_limit"] for service in STAYING.values() if "profiles" not in service]
    assert sum(int(limit[:-1]) * MEGABYTES[limit[-1]] for limit in limits) <= 6 * 1024


def test_no_secret_has_a_default_and_each_is_asked_for_in_one_line(tmp_path: Path) -> None:
    used = set(re.findall(r"\$\{(\w+)", TEXT))
    assert used == environment(tmp_path).keys() == HOLDERS.keys()
    for name in used:
        assert f"${{{name}:?run 'make up' once: it writes .env}}" in TEXT
    assert not re.findall(r"\$\{\w+:-", TEXT)


def test_a_run_on_flink_is_told_by_the_stack_where_flink_is() -> None:
    told = SERVICES["airflow-scheduler"]["environment"]["CAPTIONFLOW_BEAM_OPTIONS"]
    options = json.loads(told)["FlinkRunner"]
    assert options["job_endpoint"].partition(":")[0] in SERVICES
    assert options["environment_type"] == "EXTERNAL"


def test_secrets_are_random_and_for_the_owner_alone(tmp_path: Path) -> None:
    first, second = environment(tmp_path / "first"), environment(tmp_path / "second")
    assert stat.S_IMODE((tmp_path / "first" / ".env").stat().st_mode) == 0o600
    assert not set(first.values()) & set(second.values())
    assert len(base64.urlsafe_b64decode(first["FERNET_KEY"])) == 32
    assert len(first["JWT_SECRET"]) >= 64
    # They stand in URLs as they are.
    assert all(re.fullmatch(r"[\w-]{20,}", first[name]) for name in first.keys() - {"FERNET_KEY"})
    assert ".env" in (ROOT / ".gitignore").read_text().splitlines()
    assert ".env" in (ROOT / ".dockerignore").read_text().splitlines()


def test_secrets_that_an_env_of_before_lacks_are_added_and_the_others_stay(tmp_path: Path) -> None:
    before = "FERNET_KEY=mine=\n# my own\nADMIN_PASSWORD=\nPOSTGRES_PASSWORD=mine too"  # no end of line
    (tmp_path / ".env").write_text(before)
    shutil.copytree(ROOT / "docker", tmp_path / "docker")
    make = ["make", "--silent", "--file", ROOT / "Makefile", ".env"]
    subprocess.run(make, cwd=tmp_path, check=True)
    after = (tmp_path / ".env").read_text()
    assert after.startswith(before + "\n")
    values = dict(line.split("=", 1) for line in after.splitlines() if not line.startswith("#"))
    assert values.keys() == HOLDERS.keys()
    assert all(values.values())
    subprocess.run(make, cwd=tmp_path, check=True)
    assert (tmp_path / ".env").read_text() == after


def test_an_image_is_built_with_the_version_that_make_up_tells() -> None:
    # A build argument without a value is taken from where `make up` is called.
    (told,) = re.findall(r"\b(SETUPTOOLS_SCM_\w+)=\$\$version", (ROOT / "Makefile").read_text(), re.MULTILINE)
    for service in SERVICES.values():
        if "build" in service:
            assert service["build"]["args"][told] is None
    assert f"\nARG {told}\n" in (ROOT / "Dockerfile").read_text()

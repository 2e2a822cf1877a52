"""The compose file and its secrets, as far as can be told without an engine."""

import base64
import json
import re
import stat
import subprocess
from pathlib import Path
from typing import Any

import pytest
import yaml

from captionflow.code_version import code_version

ROOT = Path(__file__).parents[1]
TEXT = (ROOT / "docker-compose.yaml").read_text()
SERVICES: dict[str, dict[str, Any]] = yaml.safe_load(TEXT)["services"]
STAYING = {name: service for name, service in SERVICES.items() if name != "airflow-init"}
MEGABYTES = {"m": 1, "g": 1024}


def environment(folder: Path) -> dict[str, str]:
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


def test_all_of_it_fits_into_6_gigabytes() -> None:
    limits = [service["mem_limit"] for service in STAYING.values() if "profiles" not in service]
    assert sum(int(limit[:-1]) * MEGABYTES[limit[-1]] for limit in limits) <= 6 * 1024


def test_no_secret_has_a_default_and_each_is_asked_for_in_one_line(tmp_path: Path) -> None:
    used = set(re.findall(r"\$\{(\w+)", TEXT)) - {"CODE_VERSION"}
    assert used == environment(tmp_path).keys()
    for name in used:
        assert f"${{{name}:?run 'make up' once: it writes .env}}" in TEXT
    assert not re.findall(r"\$\{(?!CODE_VERSION)\w+:-", TEXT)


def test_a_run_on_flink_is_told_by_the_stack_where_flink_is() -> None:
    told = SERVICES["airflow-scheduler"]["environment"]["CAPTIONFLOW_BEAM_OPTIONS"]
    options = json.loads(told)["FlinkRunner"]
    assert options["job_endpoint"].partition(":")[0] in SERVICES
    assert options["environment_type"] == "EXTERNAL"


def test_secrets_are_random_and_for_the_owner_alone(tmp_path: Path) -> None:
    first, second = environment(tmp_path), environment(tmp_path)
    assert stat.S_IMODE((tmp_path / ".env").stat().st_mode) == 0o600
    assert not set(first.values()) & set(second.values())
    assert len(base64.urlsafe_b64decode(first["FERNET_KEY"])) == 32
    # They stand in URLs as they are.
    assert all(re.fullmatch(r"[\w-]{20,}", first[name]) for name in first.keys() - {"FERNET_KEY"})
    assert ".env" in (ROOT / ".gitignore").read_text().splitlines()
    assert ".env" in (ROOT / ".dockerignore").read_text().splitlines()


def test_images_are_told_the_version_that_the_checkout_would_tell() -> None:
    _, _, of_checkout = code_version().partition("+g")
    if not of_checkout:
        pytest.skip("this is no git checkout")
    done = subprocess.run([ROOT / "docker" / "code-version.sh"], capture_output=True, text=True, check=True)
    assert done.stdout.strip() == of_checkout

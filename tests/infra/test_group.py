"""The services of infra/compose.yaml, started natively: a pipeline of Temper tracked, registered and kept by them."""

from __future__ import annotations

import base64
import json
import os
import urllib.error
import urllib.request
from collections.abc import Iterator
from typing import Any

import pytest

from tests.infra.native import ROOT, Group
from tests.workspace import SMALL, Workspace


@pytest.fixture(scope="module")
def workspace(tmp_path_factory: pytest.TempPathFactory) -> Workspace:
    made = Workspace(tmp_path_factory.mktemp("group") / "checkout")
    made.write_params({part: dict([next(iter(SMALL[part].items()))]) for part in ("variants", "targets")})
    return made


@pytest.fixture(scope="module")
def group(workspace: Workspace) -> Iterator[Group]:
    started = Group(workspace.folder)
    try:
        started.up("worker")
        run(workspace, started, "temper", "run")
        yield started
    finally:
        started.close()


def run(workspace: Workspace, group: Group, *command: str) -> str:
    """A command as the worker's container would run it: with its environment."""
    words = [str(ROOT / "infra" / "entrypoint.sh"), *command]
    environment = group.environment(group.services["worker"])
    del environment["PATH"], environment["PYTHONPATH"]
    return workspace(*words, **environment)


def ask(group: Group, port: str, path: str, login: str | None, body: Any = None) -> Any:
    headers = {"Content-Type": "application/json"}
    if login:
        headers["Authorization"] = "Basic " + base64.b64encode(login.encode()).decode()
    data = None if body is None else json.dumps(body).encode()
    request = urllib.request.Request(f"{group.address(port)}{path}", data, headers)
    with urllib.request.urlopen(request, timeout=20) as answer:
        return json.load(answer)


def mlflow(group: Group, path: str, body: Any = None) -> Any:
    return ask(group, "5000", f"/api/2.0/mlflow/{path}", f"admin:{group.secret('mlflow_admin_password')}", body)


def prefect(group: Group, path: str, body: Any) -> Any:
    return ask(group, "4200", f"/api/{path}", group.secret("prefect_auth"), body)


def s3(group: Group, user: str) -> Any:
    import boto3

    key, secret = (line.partition("= ")[2] for line in group.secret(f"s3_{user}").splitlines()[1:])
    return boto3.client(
        "s3", "us-east-1", endpoint_url=group.address("8333"), aws_access_key_id=key, aws_secret_access_key=secret
    )


def test_the_champion_is_in_postgresql_and_its_files_in_s3(group: Group) -> None:
    version = mlflow(group, "registered-models/alias?name=digits&alias=champion")["model_version"]
    digest = {tag["key"]: tag["value"] for tag in version["tags"]}["digest"]
    decision = json.loads((group.checkout / "work/decision/decision.json").read_text("utf-8"))
    assert digest == decision["winner"]["digest"]
    assert not (group.checkout / "mlruns/mlflow.db").exists()
    sql = "SELECT name, alias, version FROM registered_model_aliases WHERE alias = 'champion'"
    assert group.query("mlflow", sql) == f"digits|champion|{version['version']}"
    files = [entry["Key"] for entry in s3(group, "mlflow").list_objects_v2(Bucket="mlflow")["Contents"]]
    assert any(file.endswith("model.onnx") for file in files), files


def test_the_flow_is_in_postgresql(group: Group) -> None:
    (flow,) = prefect(group, "flow_runs/filter", {})
    assert flow["state"]["type"] == "COMPLETED"
    assert group.query("prefect", "SELECT name, state_type FROM flow_run") == f"{flow['name']}|COMPLETED"


def test_the_worker_waits_at_its_pool(group: Group) -> None:
    pool = ask(group, "4200", "/api/work_pools/temper", group.secret("prefect_auth"))
    assert (pool["type"], pool["status"]) == ("process", "READY")
    (worker,) = prefect(group, "work_pools/temper/workers/filter", {})
    assert worker["status"] == "ONLINE"


def test_the_deployments_are_made(group: Group) -> None:
    if not (ROOT / "prefect.yaml").exists():
        pytest.skip("no prefect.yaml, so no deployments")
    group.up("deploy")
    assert prefect(group, "deployments/filter", {})


@pytest.mark.parametrize(
    ("port", "path"), [("5000", "/api/2.0/mlflow/experiments/get?experiment_id=0"), ("4200", "/api/work_pools/temper")]
)
def test_no_server_answers_strangers(group: Group, port: str, path: str) -> None:
    for login in (None, "admin:wrong", "temper:wrong"):
        with pytest.raises(urllib.error.HTTPError) as refused:
            ask(group, port, path, login)
        assert refused.value.code == 401


def test_each_client_has_its_bucket_only(group: Group) -> None:
    from botocore.exceptions import ClientError

    s3(group, "dvc").put_object(Bucket="dvc", Key="probe", Body=b"x")
    for user, bucket in (("mlflow", "dvc"), ("dvc", "mlflow")):
        with pytest.raises(ClientError, match="AccessDenied"):
            s3(group, user).list_objects_v2(Bucket=bucket)
        with pytest.raises(ClientError, match="AccessDenied"):
            s3(group, user).put_object(Bucket=bucket, Key="probe", Body=b"x")


def test_nothing_listens_beyond_loopback(group: Group) -> None:
    """The translated commands bind to loopback; what the compose file publishes it publishes there too."""
    import psutil

    for name, process in group.running.items():
        if process.poll() is not None:
            continue
        parent = psutil.Process(process.pid)
        for one in [parent, *parent.children(recursive=True)]:
            heard = [c.laddr.ip for c in one.net_connections("inet") if c.status == psutil.CONN_LISTEN]
            assert set(heard) <= {"127.0.0.1"}, f"{name}: {heard}"


def test_dvc_keeps_its_data_in_s3(group: Group, workspace: Workspace) -> None:
    run(workspace, group, "dvc", "remote", "add", "--default", "--force", "store", "s3://dvc/temper")
    run(workspace, group, "dvc", "push")
    assert s3(group, "dvc").list_objects_v2(Bucket="dvc", Prefix="temper/files/md5/")["KeyCount"] > 5


def test_a_dump_restores_what_it_was_made_of(group: Group) -> None:
    environment = {"PATH": os.environ["PATH"], "PGHOST": str(group.folder / "pg"), "PGPORT": group.ports["5432"]}
    for name in ("mlflow", "prefect"):
        dump = group.folder / f"{name}.dump"
        program = group.postgresql
        group.execute([program / "pg_dump", "-U", "postgres", "--format=custom", f"--file={dump}", name], environment)
        group.execute([program / "createdb", "-U", "postgres", f"--owner={name}", f"{name}_restored"], environment)
        words = ["-U", "postgres", "--exit-on-error", f"--dbname={name}_restored", dump]
        group.execute([program / "pg_restore", *words], environment)
    counts = {"mlflow": "SELECT count(*) FROM model_versions", "prefect": "SELECT count(*) FROM flow_run"}
    for name, sql in counts.items():
        assert group.query(f"{name}_restored", sql) == group.query(name, sql) != "0"

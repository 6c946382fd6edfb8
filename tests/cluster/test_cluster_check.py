"""The check of cluster files: ours pass, each seeded fault is named with its line, and Ray's schema has its say."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
import yaml

from rayscale.cli import run_command
from rayscale.cluster.check import Checked, check_cluster_file
from rayscale.errors import InputError

ROOT = Path(__file__).parent.parent.parent
OURS = ("cluster.yaml", "deploy/onprem.yaml", "deploy/rayjob.yaml", "deploy/ray-start.sh")

# What to replace in which of our files, by what, and the code that must be found, about on the line of the change.
BAD = {
    "dashboard on all interfaces": (
        "cluster.yaml",
        "--dashboard-host=127.0.0.1",
        "--dashboard-host=0.0.0.0",
        "dashboard_exposed",
    ),
    "dashboard flag with a space": (
        "deploy/ray-start.sh",
        "--dashboard-host=127.0.0.1",
        "--dashboard-host 10.0.0.5",
        "dashboard_exposed",
    ),
    "no own security group": (
        "cluster.yaml",
        "SecurityGroupIds: [*security_group]  # without",
        "KeyName: mine  # without",
        "ssh_open_to_world",
    ),
    "security rule for the world": (
        "cluster.yaml",
        "  cache_stopped_nodes: false",
        (
            "  security_group: {IpPermissions: [{FromPort: 22, IpRanges: [{CidrIp: 0.0.0.0/0}]}]}\n"
            "  cache_stopped_nodes: false"
        ),
        "open_to_world",
    ),
    "no token mode": (
        "cluster.yaml",
        "RAY_AUTH_MODE=token",
        "RAY_LOG_LEVEL=info",
        "token_off",
    ),
    "token not on the nodes": (
        "cluster.yaml",
        '"/home/ubuntu/.ray/auth_token": "~/.ray/auth_token"',
        '"/home/ubuntu/notes": "~/notes"',
        "token_not_mounted",
    ),
    "token in the file": (
        "cluster.yaml",
        "export RAY_AUTH_MODE=token; ulimit",
        "export RAY_AUTH_MODE=token; export RAY_AUTH_TOKEN=abc123; ulimit",
        "secret_in_file",
    ),
    "AWS key in the file": (
        "cluster.yaml",
        "setup_commands:\n",
        "setup_commands:\n  - export AWS_ACCESS_KEY_ID=AKIAABCDEFGHIJKLMNOP\n",
        "secret_in_file",
    ),
    "AWS credentials copied": (
        "cluster.yaml",
        '"/home/ubuntu/rayscale": "."',
        '"/home/ubuntu/.aws": "~/.aws"\n  "/home/ubuntu/rayscale": "."',
        "credentials_mounted",
    ),
    "MLflow on all interfaces": (
        "cluster.yaml",
        "head_start_ray_commands:\n",
        "head_start_ray_commands:\n  - mlflow server --host 0.0.0.0 --port 5000 &\n",
        "mlflow_exposed",
    ),
    "Ray Client port": (
        "deploy/ray-start.sh",
        "--port=6379 --",
        "--port=6379 --ray-client-server-port=10001 --",
        "client_port",
    ),
    "published container port": (
        "cluster.yaml",
        "cluster_name: rayscale\n",
        (
            "cluster_name: rayscale\n"
            "docker: {image: 'rayproject/ray:2.60.0', container_name: r, run_options: ['-p 8265:8265']}\n"
        ),
        "container_exposed",
    ),
    "no node role": (
        "cluster.yaml",
        "IamInstanceProfile: *node_role",
        "EbsOptimized: true",
        "no_role",
    ),
    "spot workers": (
        "cluster.yaml",
        "InstanceType: g5.xlarge",
        "InstanceMarketOptions: {MarketType: spot}\n      InstanceType: g5.xlarge",
        "spot_workers",
    ),
    "mixed GPU types": (
        "cluster.yaml",
        "\nfile_mounts:\n",
        (
            "\n"
            "  v100: {resources: {}, node_config: {InstanceType: p3.2xlarge, SecurityGroupIds: [sg-1], IamIn"
            "stanceProfile: {Name: r}}}\n"
            "file_mounts:\n"
        ),
        "mixed_gpus",
    ),
    "ledger on each node's disk": (
        "cluster.yaml",
        "s3://FILL-IN/rayscale",
        "/home/ubuntu/results",
        "no_shared_storage",
    ),
    "no ledger at all": (
        "deploy/ray-start.sh",
        "export RAYSCALE_STORAGE",
        "export OTHER",
        "no_shared_storage",
    ),
    "unpinned packages": (
        "cluster.yaml",
        "-c ~/rayscale/constraints.txt ",
        "",
        "unpinned",
    ),
    "nightly wheel": (
        "cluster.yaml",
        "head_setup_commands:\n",
        (
            "head_setup_commands:\n"
            "  - pip install https://s3-us-west-2.amazonaws.com/ray-wheels/latest/ray-3.0.0.dev0.whl\n"
        ),
        "unpinned",
    ),
    "image without a tag": (
        "deploy/rayjob.yaml",
        "FILL-IN/rayscale:0.1.0",
        "FILL-IN/rayscale",
        "unpinned",
    ),
    "head takes trials": (
        "cluster.yaml",
        "resources: {CPU: 0}",
        "resources: {}",
        "head_runs_trials",
    ),
    "volumes kept": (
        "cluster.yaml",
        "cache_stopped_nodes: false",
        "cache_stopped_nodes: true",
        "volumes_kept",
    ),
    "never idle": (
        "cluster.yaml",
        "idle_timeout_minutes: 10",
        "idle_timeout_minutes: 600",
        "no_idle_shutdown",
    ),
    "kuberay without token": (
        "deploy/rayjob.yaml",
        "mode: token",
        "mode: disabled",
        "token_off",
    ),
    "kuberay load balancer": (
        "deploy/rayjob.yaml",
        "serviceType: ClusterIP",
        "serviceType: LoadBalancer",
        "dashboard_exposed",
    ),
    "kuberay host network": (
        "deploy/rayjob.yaml",
        "          containers:\n            - name: ray-head",
        "          hostNetwork: true\n          containers:\n            - name: ray-head",
        "host_network",
    ),
    "kuberay secret as value": (
        "deploy/rayjob.yaml",
        "env: [{name: RAYSCALE_STORAGE, value: *storage}]",
        "env: [{name: RAYSCALE_STORAGE, value: *storage}, {name: HF_TOKEN, value: abc}]",
        "secret_in_file",
    ),
    "kuberay spot nodes": (
        "deploy/rayjob.yaml",
        "nvidia.com/gpu.product: FILL-IN",
        "cloud.google.com/gke-spot: 'true'",
        "spot_workers",
    ),
    "kuberay cluster that stays": (
        "deploy/rayjob.yaml",
        "shutdownAfterJobFinishes: true",
        "backoffLimit: 0",
        "no_idle_shutdown",
    ),
    "head is a worker": (
        "deploy/onprem.yaml",
        "[FILL-IN-WORKER]",
        "[FILL-IN-HEAD]",
        "head_is_worker",
    ),
}

NAMED_WHERE_IT_SHOULD_BE = (
    "token_off",
    "token_not_mounted",
    "no_shared_storage",
    "no_idle_shutdown",
    "no_role",
    "ssh_open_to_world",
)
"""What is missing has no line of its own; the nearest thing above it is named."""


def codes(checked: Checked, severity: str = "problem") -> dict[str, list[int]]:
    found: dict[str, list[int]] = {}
    for finding in checked.findings:
        if finding.severity == severity:
            found.setdefault(finding.code, []).append(finding.line)
    return found


@pytest.mark.parametrize("name", OURS)
def test_our_files_have_no_problems_and_name_what_to_fill_in(name: str) -> None:
    checked = check_cluster_file(ROOT / name)
    assert codes(checked) == {}
    lines = (ROOT / name).read_text().splitlines()
    placeholders = [n for n, line in enumerate(lines, 1) if "FILL-IN" in line and not line.lstrip().startswith("#")]
    assert codes(checked, "fill-in")["fill_in"] == placeholders != []
    assert not checked.ready


def test_values_of_cluster_yaml_stand_at_its_top() -> None:
    first_setting = (ROOT / "cluster.yaml").read_text().split("\n").index("cluster_name: rayscale")
    assert max(codes(check_cluster_file(ROOT / "cluster.yaml"), "fill-in")["fill_in"]) <= first_setting


@pytest.mark.parametrize("name", OURS)
def test_filled_in_they_are_ready(name: str, tmp_path: Path) -> None:
    text = (ROOT / name).read_text().replace("FILL-IN-HEAD", "10.0.0.1").replace("FILL-IN-WORKER", "10.0.0.2")
    path = tmp_path / Path(name).name
    path.write_text(text.replace("FILL-IN", "mine"))
    assert check_cluster_file(path).ready
    assert run_command(["cluster", "check", str(path), "--ready"]) == 0


@pytest.mark.parametrize("case", BAD)
def test_seeded_fault_is_named(case: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    name, old, new, code = BAD[case]
    text = (ROOT / name).read_text()
    assert old in text
    path = tmp_path / Path(name).name
    path.write_text(text.replace(old, new))
    found = codes(check_cluster_file(path))
    assert set(found) == {code}
    changed = [n for n, line in enumerate(path.read_text().splitlines(), 1) if line not in text.splitlines()]
    if code not in NAMED_WHERE_IT_SHOULD_BE:
        assert any(abs(line - n) <= 2 for line in found[code] for n in changed)
    assert run_command(["cluster", "check", str(path)]) == 1
    assert f"[{code}]" in capsys.readouterr().out


def test_rays_own_defaults_are_caught(tmp_path: Path) -> None:
    path = tmp_path / "minimal.yaml"
    path.write_text("cluster_name: mine\nprovider:\n  type: aws\n  region: us-west-2\n")
    found = codes(check_cluster_file(path))
    assert {"dashboard_exposed", "ssh_open_to_world", "token_off", "no_shared_storage", "volumes_kept"} <= set(found)


@pytest.mark.parametrize(
    ("old", "new", "line_of", "words"),
    [
        ("max_workers: 4\nidle", "max_worker: 4\nidle", "max_worker: 4", "max_worker"),
        ("max_workers: 4\nidle", "max_workers: four\nidle", "max_workers: four", "integer"),
        ("head_node_type: head", "head_node_type: other", "", "head_node_type"),
        ("    resources: {CPU: 0}", "    resources: {CPU: 0.5}", "resources: {CPU: 0.5}", "integer"),
    ],
)
def test_rays_schema_speaks_with_the_line(old: str, new: str, line_of: str, words: str, tmp_path: Path) -> None:
    path = tmp_path / "cluster.yaml"
    text = (ROOT / "cluster.yaml").read_text()
    assert old in text
    path.write_text(text.replace(old, new))
    (finding,) = [f for f in check_cluster_file(path).findings if f.severity == "problem"]
    assert finding.code == "schema"
    assert words in finding.message
    if line_of:
        assert line_of in path.read_text().splitlines()[finding.line - 1]


def test_local_provider_without_workers_is_refused_in_rays_words(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    path = tmp_path / "onprem.yaml"
    path.write_text("cluster_name: mine\nprovider: {type: local, head_ip: 10.0.0.1}\n")
    (finding,) = check_cluster_file(path).findings
    assert (finding.code, finding.line) == ("schema", 2)
    assert "worker_ips" in finding.message
    assert capsys.readouterr().out == ""


def test_secret_is_not_repeated(tmp_path: Path) -> None:
    path = tmp_path / "start.sh"
    path.write_text("export AWS_SECRET_ACCESS_KEY=canary-7f3a\nray start --head\n")
    checked = check_cluster_file(path)
    assert "secret_in_file" in codes(checked)
    assert "canary" not in checked.text() + json.dumps(checked.document())


def test_variables_are_no_secrets(tmp_path: Path) -> None:
    path = tmp_path / "start.sh"
    path.write_text('export RAY_AUTH_TOKEN="$(cat /run/token)"\nexport DB_PASSWORD=$PASSWORD\nray start --head\n')
    assert "secret_in_file" not in codes(check_cluster_file(path))


def test_allow_accepts_one_code_and_refuses_what_is_not_there(tmp_path: Path) -> None:
    path = tmp_path / "cluster.yaml"
    path.write_text(
        (ROOT / "cluster.yaml").read_text().replace("cache_stopped_nodes: false", "cache_stopped_nodes: true")
    )
    assert run_command(["cluster", "check", str(path), "--allow", "volumes_kept"]) == 0
    with pytest.raises(InputError, match="no such finding"):
        check_cluster_file(path, ("spot_workers",))


def test_json_document(capsys: pytest.CaptureFixture[str]) -> None:
    assert run_command(["cluster", "check", str(ROOT / "deploy/rayjob.yaml"), "--json"]) == 0
    document = json.loads(capsys.readouterr().out)
    assert document["kind"] == "kuberay"
    assert document["problems"] == 0
    assert not document["ready"]
    assert {finding["severity"] for finding in document["findings"]} == {"fill-in"}


@pytest.mark.parametrize(
    ("name", "content", "words"),
    [
        ("none.yaml", None, "cannot read"),
        ("broken.yaml", "a: [1", "no valid YAML"),
        ("other.yaml", "name: x\n", "expected a file for `ray up`"),
        ("empty.yaml", "", "expected a file for `ray up`"),
        ("script.sh", "echo hello\n", "ray start"),
    ],
)
def test_what_is_no_cluster_file_gets_one_line(
    name: str, content: str | None, words: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    path = tmp_path / name
    if content is not None:
        path.write_text(content)
    assert run_command(["cluster", "check", str(path)]) == 2
    message = capsys.readouterr().err
    assert words in message
    assert len(message.strip().splitlines()) == 1


def test_manifests_are_yaml_that_kubernetes_reads() -> None:
    (document,) = yaml.safe_load_all((ROOT / "deploy/rayjob.yaml").read_text())
    workers = document["spec"]["rayClusterSpec"]["workerGroupSpecs"][0]["template"]["spec"]["containers"][0]
    assert workers["resources"]["limits"]["nvidia.com/gpu"] == 1

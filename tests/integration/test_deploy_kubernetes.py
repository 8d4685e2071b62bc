"""What kustomize makes of the manifests: the client only, no cluster is asked."""

import shutil
import subprocess
from typing import Any

import pytest
import yaml

from tests.test_house import ROOT

pytestmark = pytest.mark.integration

FOLDER = ROOT / "deploy/kubernetes"


def built(name: str) -> dict[tuple[str, str], dict[str, Any]]:
    """Every object, by kind and name without the hash of its content."""
    if found := shutil.which("kustomize"):
        command = [found, "build"]
    elif found := shutil.which("kubectl"):
        command = [found, "kustomize"]
    else:
        pytest.skip("neither kustomize nor kubectl here; their input is checked by unit tests")
    done = subprocess.run(
        [*command, str(FOLDER / name)], capture_output=True, text=True, check=False
    )
    assert done.returncode == 0, done.stderr
    objects = list(yaml.safe_load_all(done.stdout))
    return {(one["kind"], _plain(one)): one for one in objects}


def _plain(one: dict[str, Any]) -> str:
    name: str = one["metadata"]["name"]
    return name.rpartition("-")[0] if one["kind"] == "ConfigMap" else name


def test_a_deployment_of_its_own_is_made_whole() -> None:
    found = built("standalone")
    assert set(found) == {
        ("ServiceAccount", "sentinel"),
        ("ConfigMap", "sentinel"),
        ("PersistentVolumeClaim", "sentinel"),
        ("Deployment", "sentinel"),
        ("Service", "sentinel"),
        ("Service", "sentinel-metrics"),
        ("NetworkPolicy", "sentinel"),
    }
    assert {one["metadata"]["namespace"] for one in found.values()} == {"monitoring"}
    pod = found["Deployment", "sentinel"]["spec"]["template"]
    [config, store] = pod["spec"]["volumes"]
    assert config["configMap"]["name"] == found["ConfigMap", "sentinel"]["metadata"]["name"]
    assert store["persistentVolumeClaim"]["claimName"] == "sentinel"
    assert pod["spec"]["containers"][0]["image"] == "sentinel-sidecar:0.1.0"
    # Labels that are added to all must not find their way into whom a policy is about.
    policy = found["NetworkPolicy", "sentinel"]["spec"]
    assert policy["podSelector"]["matchLabels"] == pod["metadata"]["labels"]
    towards = policy["egress"][0]["to"][0]["podSelector"]["matchLabels"]
    assert towards == {"app.kubernetes.io/name": "prometheus"}


def test_the_sidecar_gets_into_the_pod_of_prometheus() -> None:
    found = built("example")
    spec = found["StatefulSet", "prometheus"]["spec"]
    prometheus, sidecar = spec["template"]["spec"]["containers"]
    assert prometheus["name"] == "prometheus"
    assert "readinessProbe" in prometheus
    assert sidecar["image"] == "sentinel-sidecar:0.1.0"
    assert "readinessProbe" not in sidecar
    volumes = {one["name"]: one for one in spec["template"]["spec"]["volumes"]}
    config = found["ConfigMap", "sentinel"]["metadata"]["name"]
    assert volumes["sentinel-config"]["configMap"]["name"] == config
    claims = {one["metadata"]["name"] for one in spec["volumeClaimTemplates"]}
    mounted = {mount["name"] for mount in sidecar["volumeMounts"]}
    assert mounted == {"sentinel-config", "sentinel"}
    assert mounted <= claims | set(volumes)
    service = found["Service", "sentinel"]["spec"]
    labels = spec["template"]["metadata"]["labels"]
    assert service["selector"].items() <= labels.items()
    assert service["ports"][0]["targetPort"] in {port["name"] for port in sidecar["ports"]}

"""Image, compose and Kubernetes files: what their own tools would refuse, and what would be unsafe.

No container engine is asked; ``tests/integration/test_deploy_image.py`` runs the image's commands.
"""

import json
import re
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
import yaml

from deploy.demo_stack.generator import signals
from sidecar.config import load
from sidecar.names import EXPECTED, LOWER, OUTPUT_SUFFIXES, UPPER
from sidecar.serve.remote_read import remote_read_config
from tests.test_house import ROOT
from tests.unit.deploy.test_rules import promtool

DEPLOY = ROOT / "deploy"
KUBERNETES = DEPLOY / "kubernetes"
WRITABLE = "/var/lib/sentinel"


def instructions() -> list[tuple[str, str]]:
    """The Dockerfile's, in order: (instruction, the rest on one line)."""
    text = (DEPLOY / "Dockerfile").read_text()
    text = re.sub(r"^#.*\n", "", text, flags=re.MULTILINE).replace("\\\n", " ")
    lines = [line.split(None, 1) for line in text.splitlines() if line.strip()]
    return [(word, " ".join(rest.split())) for word, rest in lines]


def image_environ() -> dict[str, str]:
    """``ENV`` of the final image, the settings of Sentinel only."""
    [text] = [rest for word, rest in _final_stage() if word == "ENV"]
    found = dict(part.split("=", 1) for part in text.split())
    return {name: value for name, value in found.items() if name.startswith("SENTINEL_")}


def _final_stage() -> list[tuple[str, str]]:
    found = instructions()
    start = max(i for i, (word, _) in enumerate(found) if word == "FROM")
    return found[start:]


def compose() -> dict[str, Any]:
    found: dict[str, Any] = yaml.safe_load((DEPLOY / "compose.yml").read_text())
    return found


def services() -> dict[str, dict[str, Any]]:
    found: dict[str, dict[str, Any]] = compose()["services"]
    return found


def documents(*names: str) -> Iterator[dict[str, Any]]:
    for name in names:
        yield from yaml.safe_load_all((KUBERNETES / name).read_text())


def one(kind: str, *names: str) -> dict[str, Any]:
    [found] = [document for document in documents(*names) if document["kind"] == kind]
    return found


def sidecar_container() -> dict[str, Any]:
    """The container that is put beside Prometheus."""
    patch = yaml.safe_load((KUBERNETES / "in-pod/container.yaml").read_text())
    [found] = [p["value"] for p in patch if p["path"] == "/spec/template/spec/containers/-"]
    return dict(found)


# The image


def test_the_image_is_built_in_one_stage_and_runs_from_another() -> None:
    assert sum(word == "FROM" for word, _ in instructions()) == 2
    [copied] = [rest for word, rest in _final_stage() if word == "COPY"]
    assert copied.startswith("--from=build ")


def test_the_image_does_not_run_as_root_and_its_user_is_a_number() -> None:
    words = [word for word, _ in _final_stage()]
    [user] = [rest for word, rest in _final_stage() if word == "USER"]
    assert re.fullmatch(r"[1-9]\d{3,}:0", user)
    assert words.index("USER") < words.index("ENTRYPOINT")
    assert "RUN" not in words[words.index("USER") :]


def test_no_shell_is_needed_to_start_or_to_ask_for_health() -> None:
    final = dict(_final_stage())
    assert json.loads(final["ENTRYPOINT"]) == ["/opt/sentinel/bin/sentinel"]
    assert json.loads(final["CMD"]) == ["run", "-c", "/etc/sentinel/sentinel.yml"]
    health = json.loads(final["HEALTHCHECK"].split("CMD ", 1)[1])
    assert health == ["/opt/sentinel/bin/python", "-I", "/opt/sentinel/healthcheck.py"]


def test_the_image_listens_for_others_and_writes_to_its_volume() -> None:
    environ = image_environ()
    config = load(None, environ, need_watches=False)
    assert config.emitter_host == "0.0.0.0"
    assert config.artifact_store == WRITABLE
    final = dict(_final_stage())
    assert json.loads(final["VOLUME"]) == [WRITABLE]
    assert final["EXPOSE"] == str(config.emitter_port)
    assert any(word == "RUN" and WRITABLE in rest for word, rest in _final_stage())


def test_all_that_is_copied_is_there_and_is_not_ignored() -> None:
    allowed = {
        line[1:]
        for line in (DEPLOY / "Dockerfile.dockerignore").read_text().splitlines()
        if line.startswith("!")
    }
    copied = [rest.split()[:-1] for word, rest in instructions() if word == "COPY"]
    sources = {source for some in copied if not some[0].startswith("--from") for source in some}
    assert sources == allowed
    assert [source for source in sources if not (ROOT / source).exists()] == []


# Compose


def test_compose_listens_on_this_machine_only() -> None:
    published = [port for service in services().values() for port in service.get("ports", ())]
    assert len(published) == 3
    assert all(port.startswith("127.0.0.1:") for port in published)


def test_compose_images_are_of_a_certain_version_or_built_here() -> None:
    for name, service in services().items():
        built = service.get("build")
        assert built or re.search(r":v?\d+\.\d+\.\d+$", service["image"]), name
        if built:
            assert (DEPLOY / built["context"] / built["dockerfile"]).is_file()


def test_compose_mounts_what_exists() -> None:
    named = set(compose()["volumes"])
    used = set()
    for service in services().values():
        for mount in service.get("volumes", ()):
            source, target, *_ = mount.split(":")
            assert target.startswith("/")
            if source.startswith("."):
                assert (DEPLOY / source).exists(), mount
                assert mount.endswith(":ro"), mount
            else:
                used.add(source)
    assert used == named


def test_compose_waits_for_services_that_are_there() -> None:
    there = services()
    for service in there.values():
        assert set(service.get("depends_on", ())) <= set(there)
        network = service.get("network_mode", "none")
        assert network == "none" or network.removeprefix("service:") in there


def test_compose_runs_the_sidecar_with_a_read_only_root_and_no_capabilities() -> None:
    sidecar = services()["sentinel"]
    assert sidecar["read_only"] is True
    assert sidecar["cap_drop"] == ["ALL"]
    assert sidecar["security_opt"] == ["no-new-privileges:true"]
    assert {mount.split(":")[1] for mount in sidecar["volumes"]} == {
        "/etc/sentinel/sentinel.yml",
        WRITABLE,
    }


def test_compose_services_find_each_other() -> None:
    there = services()
    environ = image_environ() | there["sentinel"]["environment"]
    config = load(DEPLOY / "sentinel.example.yml", environ)
    assert config.prometheus_url == "http://prometheus:9090"
    assert config.emitter_port == 8080
    flags = there["prometheus"]["command"]
    assert "--web.enable-remote-write-receiver" in flags
    assert "--config.file=/etc/prometheus/prometheus.yml" in flags
    home = there["grafana"]["environment"]["GF_DASHBOARDS_DEFAULT_HOME_DASHBOARD_PATH"]
    assert (DEPLOY / "grafana/dashboards" / Path(home).name).is_file()
    assert there["load"]["network_mode"] == "service:prometheus"


# Prometheus


def prometheus_config() -> dict[str, Any]:
    found: dict[str, Any] = yaml.safe_load((DEPLOY / "prometheus/prometheus.yml").read_text())
    return found


def test_prometheus_takes_the_configuration_and_the_push_block(tmp_path: Path) -> None:
    whole = prometheus_config()
    whole["rule_files"] = [str(DEPLOY / "prometheus/rules/*.yml")]
    whole |= yaml.safe_load((DEPLOY / "prometheus/remote_write.yml").read_text())
    path = tmp_path / "prometheus.yml"
    path.write_text(json.dumps(whole))
    promtool("check", "config", path)


def test_the_rules_are_where_prometheus_looks_for_them() -> None:
    mounts = services()["prometheus"]["volumes"]
    [folder] = [m.split(":")[1] for m in mounts if m.startswith("./prometheus/rules:")]
    assert prometheus_config()["rule_files"] == [f"{folder}/*.yml"]


def test_the_scrape_of_the_sidecar_leaves_out_what_is_pushed_anyway() -> None:
    [job] = [j for j in prometheus_config()["scrape_configs"] if j["job_name"] == "sentinel"]
    assert job["params"] == {"collect[]": ["self"]}


def test_the_remote_read_block_is_what_the_program_prints_for_the_example() -> None:
    watches = load(DEPLOY / "sentinel.example.yml", {}).watches
    outputs = [
        watch.output_metric + suffix
        for watch in watches
        for suffix in (EXPECTED, EXPECTED + LOWER, EXPECTED + UPPER)
    ]
    printed = yaml.safe_load(remote_read_config("http://sentinel:8080", outputs))
    assert prometheus_config()["remote_read"] == printed["remote_read"]


def test_only_what_is_watched_is_pushed_and_never_our_own_output() -> None:
    [block] = yaml.safe_load((DEPLOY / "prometheus/remote_write.yml").read_text())["remote_write"]
    keep, drop = block["write_relabel_configs"]
    assert (keep["action"], drop["action"]) == ("keep", "drop")
    watched = {watch.metric for watch in load(DEPLOY / "sentinel.example.yml", {}).watches}
    assert {signal.name for signal in signals(0.0)} == watched
    assert all(re.fullmatch(keep["regex"], name) for name in watched)
    assert not re.fullmatch(keep["regex"], "node_load1")
    assert all(re.fullmatch(drop["regex"], f"x{suffix}") for suffix in OUTPUT_SUFFIXES)
    assert not re.fullmatch(drop["regex"], "redis_sentinel_master_status")
    told = load(None, {"SENTINEL_RECEIVE_REMOTE_WRITE": "true"}, need_watches=False)
    assert told.receive_remote_write


# Kubernetes


def test_a_deployment_of_its_own_is_one_at_a_time_and_says_when_it_is_ready() -> None:
    spec = one("Deployment", "standalone/deployment.yaml")["spec"]
    assert spec["replicas"] == 1
    assert spec["strategy"] == {"type": "Recreate"}
    [container] = spec["template"]["spec"]["containers"]
    assert container["livenessProbe"]["httpGet"]["path"] == "/-/healthy"
    assert container["readinessProbe"]["httpGet"]["path"] == "/-/ready"
    assert spec["selector"]["matchLabels"].items() <= spec["template"]["metadata"]["labels"].items()


def test_beside_prometheus_there_is_a_liveness_probe_only() -> None:
    container = sidecar_container()
    assert container["livenessProbe"]["httpGet"]["path"] == "/-/healthy"
    assert "readinessProbe" not in container
    assert "startupProbe" not in container


@pytest.mark.parametrize("where", ["standalone", "in-pod"])
def test_the_container_may_do_nothing_but_write_to_its_volume(where: str) -> None:
    if where == "standalone":
        pod = one("Deployment", "standalone/deployment.yaml")["spec"]["template"]["spec"]
        [container] = pod["containers"]
        security = pod["securityContext"] | container["securityContext"]
        assert pod["automountServiceAccountToken"] is False
    else:
        container = sidecar_container()
        security = container["securityContext"]
    assert security["runAsNonRoot"] is True
    assert "runAsUser" not in security  # any will do
    assert security["readOnlyRootFilesystem"] is True
    assert security["allowPrivilegeEscalation"] is False
    assert security["capabilities"] == {"drop": ["ALL"]}
    assert security["seccompProfile"] == {"type": "RuntimeDefault"}
    mounts = {
        mount["mountPath"]: mount.get("readOnly", False) for mount in container["volumeMounts"]
    }
    assert mounts == {"/etc/sentinel": True, WRITABLE: False}
    assert set(container["resources"]["requests"]) == {"cpu", "memory"}
    assert set(container["resources"]["limits"]) == {"memory"}


@pytest.mark.parametrize("where", ["standalone", "in-pod"])
def test_the_configuration_is_valid_in_the_environment_of_the_cluster(where: str) -> None:
    container = (
        one("Deployment", "standalone/deployment.yaml")["spec"]["template"]["spec"]["containers"][0]
        if where == "standalone"
        else sidecar_container()
    )
    given = {entry["name"]: entry["value"] for entry in container.get("env", ())}
    # What Kubernetes adds for a Service of the name "sentinel" where service links are on.
    links = {
        "SENTINEL_SERVICE_HOST": "10.0.0.1",
        "SENTINEL_SERVICE_PORT": "8080",
        "SENTINEL_SERVICE_PORT_HTTP": "8080",
        "SENTINEL_PORT": "tcp://10.0.0.1:8080",
        "SENTINEL_PORT_8080_TCP": "tcp://10.0.0.1:8080",
        "SENTINEL_PORT_8080_TCP_PROTO": "tcp",
        "SENTINEL_PORT_8080_TCP_PORT": "8080",
        "SENTINEL_PORT_8080_TCP_ADDR": "10.0.0.1",
    }
    config = load(KUBERNETES / where / "sentinel.yml", image_environ() | links | given)
    assert config.emitter_port == container["ports"][0]["containerPort"]
    assert config.prometheus_url.endswith(":9090")
    assert container["livenessProbe"]["httpGet"]["port"] == container["ports"][0]["name"]
    assert container["args"] == ["run", "-c", "/etc/sentinel/sentinel.yml"]


def test_policies_choose_their_own_pods_and_let_in_who_asks() -> None:
    spec = one("NetworkPolicy", "standalone/networkpolicy.yaml")["spec"]
    pod = one("Deployment", "standalone/deployment.yaml")["spec"]["template"]
    assert spec["podSelector"]["matchLabels"] == pod["metadata"]["labels"]
    assert spec["policyTypes"] == ["Ingress", "Egress"]
    [rule] = spec["ingress"]
    assert rule["ports"] == [{"port": 8080, "protocol": "TCP"}]
    assert rule["from"][0]["podSelector"]["matchExpressions"][0]["values"] == [
        "grafana",
        "prometheus",
    ]
    assert {port["port"] for out in spec["egress"] for port in out["ports"]} == {53, 9090}


def test_a_policy_for_prometheus_pods_keeps_their_own_port_open() -> None:
    spec = one("NetworkPolicy", "example/networkpolicy.yaml")["spec"]
    assert [port["port"] for rule in spec["ingress"] for port in rule["ports"]] == [9090, 8099]
    assert "from" not in spec["ingress"][0]


def test_services_lead_to_ports_that_are_open() -> None:
    for path, pods in (
        ("standalone/service.yaml", "sentinel"),
        ("in-pod/service.yaml", "prometheus"),
    ):
        ports = {"sentinel": "http", "prometheus": "sentinel"}
        for service in documents(path):
            assert service["spec"]["selector"] == {"app.kubernetes.io/name": pods}
            assert [port["targetPort"] for port in service["spec"]["ports"]] == [ports[pods]]
    assert sidecar_container()["ports"][0]["name"] == "sentinel"


def test_kustomize_finds_every_file_that_is_there() -> None:
    for folder in ("standalone", "in-pod", "example"):
        text = yaml.safe_load((KUBERNETES / folder / "kustomization.yaml").read_text())
        listed = [*text["resources"], *(patch["path"] for patch in text.get("patches", ()))]
        listed += [file for maps in text["configMapGenerator"] for file in maps["files"]]
        there = {path.name for path in (KUBERNETES / folder).iterdir()} - {"kustomization.yaml"}
        assert set(listed) == there


def test_prometheus_in_the_example_takes_writes_and_is_scraped_with_its_sidecar() -> None:
    spec = one("StatefulSet", "example/prometheus.yaml")["spec"]["template"]["spec"]
    assert "--web.enable-remote-write-receiver" in spec["containers"][0]["args"]
    config = yaml.safe_load((KUBERNETES / "example/prometheus.yml").read_text())
    [job] = [j for j in config["scrape_configs"] if j["job_name"] == "sentinel"]
    port = sidecar_container()["ports"][0]["containerPort"]
    assert job["static_configs"] == [{"targets": [f"localhost:{port}"]}]
    promtool("check", "config", "--syntax-only", KUBERNETES / "example/prometheus.yml")


def test_image_and_manifests_are_of_the_version_of_the_project() -> None:
    version = re.search(r'^version = "(.+)"$', (ROOT / "pyproject.toml").read_text(), re.MULTILINE)
    assert version is not None
    for folder in ("standalone", "in-pod"):
        text = yaml.safe_load((KUBERNETES / folder / "kustomization.yaml").read_text())
        assert text["images"] == [{"name": "sentinel-sidecar", "newTag": version[1]}]

"""The deployment files agree with the settings, the routes and one another, and open nothing that should be closed."""

import re
from itertools import chain
from pathlib import Path
from typing import Any

import pytest
import yaml  # type: ignore[import-untyped]  # read into Any

from deployment.app import create_app
from deployment.settings import Settings, describe_variables, load

ROOT = Path(__file__).parents[2]
COMPOSE = sorted((ROOT / "docker").glob("docker-compose*.yml"))
MANIFESTS = sorted((ROOT / "k8s").glob("*.yaml"))


def manifests() -> list[dict[str, Any]]:
    return list(chain.from_iterable(yaml.safe_load_all(path.read_text("utf-8")) for path in MANIFESTS))


def manifest(kind: str, name: str) -> dict[str, Any]:
    [found] = [m for m in manifests() if m["kind"] == kind and m["metadata"]["name"] == name]
    return found


def pod(workload: dict[str, Any]) -> dict[str, Any]:
    spec: dict[str, Any] = workload["spec"]["template"]["spec"]
    return spec


def container(workload: dict[str, Any]) -> dict[str, Any]:
    [only] = pod(workload)["containers"]
    assert isinstance(only, dict)
    return only


GATEWAY = manifest("Deployment", "ramsey-gateway")
ENGINE = manifest("StatefulSet", "ramsey-engine")


def compose() -> dict[str, Any]:
    content: dict[str, Any] = yaml.safe_load((ROOT / "docker/docker-compose.yml").read_text("utf-8"))
    return content


def dockerfile() -> list[tuple[str, str]]:
    """(instruction, its argument) of the image that is shipped: the last stage."""
    text = (ROOT / "docker/Dockerfile").read_text("utf-8")
    lines = re.sub(r"^#.*\n", "", text, flags=re.M).replace("\\\n", " ").splitlines()
    steps = [(word, rest.strip()) for word, _, rest in (line.partition(" ") for line in lines if line)]
    last = max(index for index, (word, _) in enumerate(steps) if word == "FROM")
    return steps[last:]


def image_environment() -> dict[str, str]:
    settings = " ".join(rest for word, rest in dockerfile() if word == "ENV")
    return dict(re.findall(r"(\w+)=(\S+)", settings))


def settings_from(text: str, tmp_path: Path) -> Settings:
    path = tmp_path / "ramsey.toml"
    path.write_text(text, encoding="utf-8")
    return load(path)


def kubernetes_settings(tmp_path: Path) -> Settings:
    return settings_from(manifest("ConfigMap", "ramsey-gateway")["data"]["ramsey.toml"], tmp_path)


def paths_served() -> set[str]:
    return set(create_app(load()).openapi()["paths"])


def seconds(text: str) -> float:
    found = re.fullmatch(r"(\d+)s", text)
    assert found, text
    return float(found[1])


# -- the image ----------------------------------------------------------------------------------------------------


def test_the_image_runs_as_a_numbered_ordinary_user() -> None:
    [user] = [rest for word, rest in dockerfile() if word == "USER"]
    uid, gid = user.split(":")  # a number, so that Kubernetes can see that it is not root

    assert int(uid) > 0
    assert int(gid) > 0


def test_the_image_is_stopped_by_the_signal_that_drains_and_started_without_a_shell() -> None:
    steps = dict(dockerfile())

    assert steps["STOPSIGNAL"] == "SIGTERM"
    assert steps["CMD"] == '["python", "src/deployment/api.py"]'
    assert "/health/live" in steps["HEALTHCHECK"]
    assert "/health/live" in paths_served()


def test_the_image_sets_nothing_that_is_no_setting() -> None:
    known = {f"RAMSEY_{name}" for name in describe_variables()}

    assert {name for name in image_environment() if name.startswith("RAMSEY_")} <= known


def test_only_what_is_needed_goes_to_the_builder() -> None:
    rules = [line for line in (ROOT / ".dockerignore").read_text("utf-8").splitlines() if not line.startswith("#")]

    assert rules[0] == "*"
    assert all(rule.startswith(("!docker/requirements.txt", "!models/ollama/", "!src/", "**/")) for rule in rules[1:])


@pytest.mark.parametrize("name", ["requirements.txt", "requirements-dev.txt", "docker/requirements.txt"])
def test_every_requirement_is_pinned_by_hash_and_names_no_index(name: str) -> None:
    text = (ROOT / name).read_text("utf-8")
    requirements = [block for block in re.split(r"\n(?=\S)", text) if block.strip() and not block.startswith("#")]

    assert requirements
    assert all(re.match(r"[A-Za-z0-9._-]+==\S+", block) and "--hash=sha256:" in block for block in requirements)
    assert "://" not in text
    assert "index" not in text


def test_the_image_has_the_same_packages_as_a_plain_install_and_the_extras() -> None:
    def pins(name: str) -> dict[str, str]:
        return dict(re.findall(r"^([a-z0-9._-]+)==(\S+)", (ROOT / name).read_text("utf-8"), re.M))

    plain, image = pins("requirements.txt"), pins("docker/requirements.txt")
    assert plain.items() <= image.items()
    assert {"asyncpg", "redis"} <= image.keys()


# -- Compose ------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("path", COMPOSE, ids=lambda path: path.name)
def test_only_the_gateway_has_a_port_and_only_for_this_machine(path: Path) -> None:
    for name, service in yaml.safe_load(path.read_text("utf-8"))["services"].items():
        ports = service.get("ports", [])
        assert name == "gateway" or not ports
        assert all(port.startswith("127.0.0.1:") for port in ports)


def test_the_engine_is_on_a_network_of_its_own_with_no_way_out() -> None:
    stack = compose()

    assert stack["services"]["ollama"]["networks"] == ["engines"]
    assert stack["networks"]["engines"]["internal"] is True


def test_the_gateway_may_drain_before_compose_kills_it(tmp_path: Path) -> None:
    settings = settings_from((ROOT / "docker/gateway.toml").read_text("utf-8"), tmp_path)
    grace = seconds(compose()["services"]["gateway"]["stop_grace_period"])

    assert grace > settings.server.drain_seconds + settings.server.drain_notice_seconds


def test_compose_starts_in_production_and_lets_nobody_in_by_itself(tmp_path: Path) -> None:
    settings = settings_from((ROOT / "docker/gateway.toml").read_text("utf-8"), tmp_path)

    assert settings.profile == "production"
    assert [key.sha256 for key in settings.access.keys] == ["0" * 64]
    assert compose()["services"]["gateway"]["environment"]["RAMSEY_ACCESS__KEYS"] == "${RAMSEY_ACCESS__KEYS:-}"


def test_the_nodes_of_compose_have_the_slots_that_the_gateway_counts_on(tmp_path: Path) -> None:
    settings = settings_from((ROOT / "docker/gateway.toml").read_text("utf-8"), tmp_path)
    [node] = settings.pool.nodes

    assert node.url == "http://ollama:11434"
    assert compose()["services"]["ollama"]["environment"]["OLLAMA_NUM_PARALLEL"] == str(node.slots)


@pytest.mark.parametrize("service", ["gateway", "ollama"])
def test_a_container_has_no_more_rights_than_it_needs(service: str) -> None:
    spec = compose()["services"][service]

    assert spec["read_only"] is True
    assert spec["cap_drop"] == ["ALL"]
    assert spec["security_opt"] == ["no-new-privileges:true"]
    assert "mem_limit" in spec


# -- Kubernetes ---------------------------------------------------------------------------------------------------


def test_the_namespace_comes_first_and_everything_is_in_it() -> None:
    first, *others = manifests()

    assert first["kind"] == "Namespace"
    assert {other["metadata"]["namespace"] for other in others} == {first["metadata"]["name"]}


def test_no_secret_is_applied_so_that_applying_again_keeps_the_keys() -> None:
    assert "Secret" not in {m["kind"] for m in manifests()}
    [source] = container(GATEWAY)["envFrom"]
    assert source["secretRef"] == {"name": "ramsey-secrets", "optional": True}


def test_a_fresh_cluster_lets_nobody_in(tmp_path: Path) -> None:
    settings = kubernetes_settings(tmp_path)

    assert settings.profile == "production"
    assert [key.sha256 for key in settings.access.keys] == ["0" * 64]


def test_a_pod_may_drain_before_it_is_killed(tmp_path: Path) -> None:
    server = kubernetes_settings(tmp_path).server
    program, pause = container(GATEWAY)["lifecycle"]["preStop"]["exec"]["command"]

    assert program == "sleep"
    grace = pod(GATEWAY)["terminationGracePeriodSeconds"]
    assert grace > int(pause) + server.drain_notice_seconds + server.drain_seconds


def test_the_probes_ask_what_the_gateway_answers() -> None:
    asked = {container(GATEWAY)[f"{kind}Probe"]["httpGet"]["path"] for kind in ("startup", "liveness", "readiness")}

    assert asked == {"/health/live", "/health/ready"}
    assert asked <= paths_served()
    assert container(GATEWAY)["livenessProbe"]["httpGet"]["path"] == "/health/live"
    assert container(GATEWAY)["ports"] == [{"name": "http", "containerPort": 8000}]


@pytest.mark.parametrize("workload", [GATEWAY, ENGINE], ids=["gateway", "engine"])
def test_a_pod_is_confined(workload: dict[str, Any]) -> None:
    spec, security = pod(workload), container(workload)["securityContext"]

    assert spec["enableServiceLinks"] is False
    assert spec["automountServiceAccountToken"] is False
    assert spec["securityContext"]["runAsNonRoot"] is True
    assert spec["securityContext"]["runAsUser"] > 0
    assert spec["securityContext"]["seccompProfile"] == {"type": "RuntimeDefault"}
    assert security["readOnlyRootFilesystem"] is True
    assert security["allowPrivilegeEscalation"] is False
    assert security["capabilities"] == {"drop": ["ALL"]}
    assert "memory" in container(workload)["resources"]["limits"]


def test_the_pods_share_the_user_of_the_image() -> None:
    [user] = [rest for word, rest in dockerfile() if word == "USER"]

    assert user == f"{pod(GATEWAY)['securityContext']['runAsUser']}:{pod(GATEWAY)['securityContext']['runAsGroup']}"


def test_only_the_gateway_reaches_the_engines_and_they_reach_nothing() -> None:
    policy = manifest("NetworkPolicy", "ramsey-engine")["spec"]
    [rule] = policy["ingress"]

    assert policy["podSelector"]["matchLabels"] == ENGINE["spec"]["template"]["metadata"]["labels"]
    assert rule["from"] == [{"podSelector": {"matchLabels": GATEWAY["spec"]["template"]["metadata"]["labels"]}}]
    assert set(policy["policyTypes"]) == {"Ingress", "Egress"}
    assert policy["egress"] == []


def test_the_gateway_finds_the_engines_by_their_service(tmp_path: Path) -> None:
    settings = kubernetes_settings(tmp_path)
    service = manifest("Service", "ramsey-engine")
    [port] = service["spec"]["ports"]
    environment = {entry["name"]: entry["value"] for entry in container(ENGINE)["env"]}

    assert settings.pool.dns == (f"{service['metadata']['name']}:{port['port']}",)
    assert service["spec"]["clusterIP"] == "None"
    assert ENGINE["spec"]["serviceName"] == service["metadata"]["name"]
    assert environment["OLLAMA_NUM_PARALLEL"] == str(settings.engine.num_parallel)


def test_replicas_belong_to_the_autoscaler_alone(tmp_path: Path) -> None:
    scaler = manifest("HorizontalPodAutoscaler", "ramsey-gateway")["spec"]

    assert "replicas" not in GATEWAY["spec"]
    assert scaler["scaleTargetRef"]["name"] == GATEWAY["metadata"]["name"]
    assert scaler["minReplicas"] == kubernetes_settings(tmp_path).pool.replicas


# -- what stands before the gateway -------------------------------------------------------------------------------


def test_no_proxy_holds_tokens_back_or_hangs_up_first() -> None:
    annotations = manifest("Ingress", "ramsey-gateway")["metadata"]["annotations"]
    ingress = {name.rpartition("/")[2]: value for name, value in annotations.items()}
    nginx = dict(re.findall(r"^\s*(proxy_\w+|client_max_body_size) (\S+);", _nginx(), re.M))
    settings = load()

    assert ingress["proxy-buffering"] == nginx["proxy_buffering"] == "off"
    assert float(ingress["proxy-read-timeout"]) > settings.engine.request_timeout
    assert seconds(nginx["proxy_read_timeout"]) > settings.engine.request_timeout
    assert ingress["proxy-body-size"] == nginx["client_max_body_size"] == "4m"
    assert settings.server.max_body_bytes == 4 << 20


def test_nginx_passes_the_request_id_and_tells_that_the_caller_is_not_local() -> None:
    headers = dict(re.findall(r"proxy_set_header (\S+) (\S+);", _nginx()))

    assert headers["X-Request-ID"] == "$ramsey_request_id"
    assert headers["X-Forwarded-For"] == "$proxy_add_x_forwarded_for"


def _nginx() -> str:
    return (ROOT / "nginx/ramsey.conf").read_text("utf-8")


# -- systemd ------------------------------------------------------------------------------------------------------


def unit(name: str) -> dict[str, str]:
    lines = (ROOT / "systemd" / name).read_text("utf-8").splitlines()
    return dict(line.split("=", 1) for line in lines if "=" in line and not line.startswith("#"))


@pytest.mark.parametrize("name", ["ramsey.service", "ramsey-engine.service"])
def test_systemd_waits_for_the_drain_and_confines_the_service(name: str) -> None:
    service = unit(name)

    assert float(service["TimeoutStopSec"]) > load().server.drain_seconds
    assert service["DynamicUser"] == "yes"
    assert service["ProtectSystem"] == "strict"
    assert service["NoNewPrivileges"] == "yes"
    assert service["CapabilityBoundingSet"] == ""


def test_the_engine_under_systemd_stays_on_loopback() -> None:
    service = unit("ramsey-engine.service")

    assert "--host 127.0.0.1" in service["ExecStart"]
    assert service["IPAddressDeny"] == "any"
    assert service["IPAddressAllow"] == "localhost"


# -- secrets ------------------------------------------------------------------------------------------------------


def test_what_holds_secrets_stays_out_of_git() -> None:
    ignored = (ROOT / ".gitignore").read_text("utf-8").splitlines()

    assert {"docker/.env", "ramsey.toml"} <= set(ignored)

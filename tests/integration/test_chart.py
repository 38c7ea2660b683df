"""The chart as it is rendered: what its pods are told is what the services understand, and nothing is open that need not be."""

from __future__ import annotations

import copy
import importlib
import importlib.util
import json
import pkgutil
import re
import shutil
import subprocess
from collections.abc import Iterator
from pathlib import Path

import jsonschema
import pytest
import semievol
import yaml
from pydantic_settings import BaseSettings

from tests import charts
from tests.charts import CHART, VALUES, Object, Pod, of_kind, pods, render

DOCS = Path(__file__).parents[2] / "docs" / "kubernetes.md"
ELSEWHERE = (
    "objectStore.enabled=false", "objectStore.external.bucket=b", "objectStore.credentials.existingSecret=s",
    "milvus.enabled=false", "milvus.external.uri=https://milvus.example",
)  # fmt: skip
SECURED = ("tls.mode=self-signed", "tls.mutual=true")
VARIANTS = [(), *[(name,) for name in VALUES], ("", *SECURED), ("", *ELSEWHERE), ("", "engine.backend=vllm", "engine.runs=pods")]


@pytest.fixture(params=VARIANTS, ids=lambda variant: " ".join(variant[:2]).strip() or "defaults")
def release(request: pytest.FixtureRequest) -> tuple[Object, ...]:
    return render(*request.param)


def ours(release: tuple[Object, ...]) -> Iterator[Pod]:
    """Pods of the suite's own images."""
    return (pod for pod in pods(release) if pod.component not in ("object-store", "milvus"))


# ---------------------------------------------------------------- what pods are told


def _settings_classes() -> list[type[BaseSettings]]:
    for module in pkgutil.walk_packages(semievol.__path__, "semievol."):
        if module.name.rpartition(".")[2] in ("settings", "security", "kube", "kubernetes_engines", "vllm_options"):
            importlib.import_module(module.name)
    return [cls for cls in BaseSettings.__subclasses__() if cls.__module__.startswith("semievol.")]


@pytest.fixture(scope="module")
def known_names() -> set[str]:
    """Every variable that some process of the suite reads."""
    fields = {f"{cls.model_config['env_prefix']}{field}".upper() for cls in _settings_classes() for field in cls.model_fields}
    sources = "\n".join(path.read_text() for path in Path(semievol.__path__[0]).rglob("*.py"))
    literal = set(re.findall(r'"(SEMIEVOL_[A-Z0-9_]*[A-Z0-9])"', sources))
    return fields | literal


def test_every_variable_is_one_that_the_services_read(release: tuple[Object, ...], known_names: set[str]) -> None:
    named = {(pod.owner, name) for pod in ours(release) for name in pod.environment() if name.startswith("SEMIEVOL_")}
    assert len(named) > 40
    assert sorted(one for one in named if one[1] not in known_names) == []


ROOMS = {
    "embedding": ("semievol.embedding.settings", "EmbeddingSettings"),
    "retrieval": ("semievol.retrieval.settings", "RetrievalSettings"),
    "judging": ("semievol.judging.settings", "JudgingSettings"),
    "training": ("semievol.training.settings", "TrainingSettings"),
    "controller": ("semievol.controller.settings", "ControllerSettings"),
    "engine": ("semievol.generation.settings", "GenerationSettings"),
    "run-engine": ("semievol.generation.settings", "GenerationSettings"),
    "router": ("semievol.generation.router.settings", "RouterSettings"),
    "door": ("semievol.door.settings", "DoorSettings"),
}


def test_each_room_takes_its_settings_and_listens_where_its_service_points(
    release: tuple[Object, ...], monkeypatch: pytest.MonkeyPatch
) -> None:
    seen = set()
    for pod in ours(release):
        if pod.component not in ROOMS:
            continue
        module, name = ROOMS[pod.component]
        for variable, value in pod.environment().items():
            monkeypatch.setenv(variable, value)
        settings = getattr(importlib.import_module(module), name)()
        host, _, port = settings.address.rpartition(":")
        assert (host, int(port)) == ("0.0.0.0", pod.spec["containers"][0]["ports"][0]["containerPort"]), pod.owner
        seen.add(pod.component)
    assert seen == set(ROOMS)


def test_every_module_that_is_started_is_there(release: tuple[Object, ...]) -> None:
    for pod in ours(release):
        for container in pod.containers:
            if "args" in container:  # steps get theirs from the launcher
                spec = importlib.util.find_spec(container["args"][0])
                assert spec is not None, container["args"]
                assert spec.origin is not None
                assert "__main__" in Path(spec.origin).read_text(), container["args"]


def test_addresses_name_services_of_the_release_at_their_ports(release: tuple[Object, ...]) -> None:
    ports = {
        f"{one['metadata']['name']}.{charts.NAMESPACE}.svc.cluster.local:{port['port']}"
        for one in of_kind(release, "Service")
        for port in one["spec"]["ports"]
    }
    called = {
        address
        for pod in ours(release)
        for value in [*pod.environment().values(), *pod.arguments()]
        for address in re.findall(r"[\w.-]+\.svc\.cluster\.local:\d+", value)
    }
    assert len(called) >= 7
    assert called - ports == set()


def test_services_find_the_pods_of_their_own_component_only(release: tuple[Object, ...]) -> None:
    for service in of_kind(release, "Service"):
        wanted = service["spec"]["selector"].items()
        found = {pod.component for pod in pods(release) if wanted <= pod.labels.items()}
        assert found == {service["metadata"]["name"].removeprefix("semievol-").removesuffix("-headless")}


def test_what_a_pod_mounts_is_there_or_the_users(release: tuple[Object, ...]) -> None:
    made = {(one["kind"], one["metadata"]["name"]) for one in release}
    made |= {("Secret", one["spec"]["secretName"]) for one in of_kind(release, "Certificate")}
    users = {"semievol-store", "semievol-milvus", "internal-ca", "models", "s"}
    for pod in pods(release):
        for volume in pod.spec["volumes"]:
            secret, claim = volume.get("secret", {}).get("secretName"), volume.get("persistentVolumeClaim", {}).get("claimName")
            config = volume.get("configMap", {}).get("name")
            for kind, name in (("Secret", secret), ("PersistentVolumeClaim", claim), ("ConfigMap", config)):
                assert name is None or name in users or (kind, name) in made, (pod.owner, kind, name)
        names = {volume["name"] for volume in pod.spec["volumes"]}
        claims = {"data"} if pod.component in ("object-store", "milvus") else set()
        mounted = {mount["name"] for container in pod.containers for mount in container["volumeMounts"]}
        assert mounted - claims <= names <= mounted | {"data"}, pod.owner


# ---------------------------------------------------------------- security


def test_every_pod_passes_restricted_pod_security_with_a_read_only_root(release: tuple[Object, ...]) -> None:
    for pod in pods(release):
        context = pod.spec["securityContext"]
        assert context["runAsNonRoot"] is True
        assert context["runAsUser"] > 0
        assert context["seccompProfile"] == {"type": "RuntimeDefault"}
        assert not {"hostNetwork", "hostPID", "hostIPC"} & pod.spec.keys()
        allowed = {"emptyDir", "secret", "configMap", "persistentVolumeClaim"}
        assert all(volume.keys() - {"name"} <= allowed for volume in pod.spec["volumes"])
        for container in pod.containers:
            assert container["securityContext"] == {
                "allowPrivilegeEscalation": False,
                "readOnlyRootFilesystem": True,
                "capabilities": {"drop": ["ALL"]},
            }
            assert {"cpu", "memory"} <= container["resources"]["requests"].keys()
            assert "memory" in container["resources"]["limits"]


def test_servers_are_probed_by_grpc_and_given_time_to_end(release: tuple[Object, ...]) -> None:
    for pod in ours(release):
        main = pod.spec["containers"][0]
        if pod.component in ("step", "training-job", "test"):
            assert "readinessProbe" not in main
        elif pod.component != "door":
            assert main["readinessProbe"]["grpc"] == {"port": 8081}
            assert main["livenessProbe"]["grpc"] == {"port": 8081, "service": "liveness"}
            assert pod.environment()["SEMIEVOL_HEALTH_ADDRESS"].endswith(":8081")
        if pod.owner.startswith("Deployment"):
            assert main["lifecycle"]["preStop"]["sleep"]["seconds"] < pod.spec["terminationGracePeriodSeconds"]
        assert pod.spec["enableServiceLinks"] is False  # SEMIEVOL_..._PORT of a Service is no setting


def test_only_controller_and_training_have_a_token_of_the_api_server(release: tuple[Object, ...]) -> None:
    assert {pod.component for pod in pods(release) if pod.spec["automountServiceAccountToken"]} == {"controller", "training"}
    accounts = {one["metadata"]["name"]: one["automountServiceAccountToken"] for one in of_kind(release, "ServiceAccount")}
    assert {name for name, token in accounts.items() if token} == {"semievol-controller", "semievol-training"}
    used = [pod.spec["serviceAccountName"] for pod in pods(release)]
    assert sorted(used) == sorted(accounts)  # one each


RULES = {
    "semievol-training": {
        "jobs": "create delete get list", "pods": "list", "pods/log": "get", "events": "list", "configmaps": "create get",
        "deployments semievol-controller": "get",
    },
    "semievol-controller": {
        "jobs": "create delete get list", "pods": "create delete get list", "pods/log": "get", "events": "list",
        "configmaps": "create delete get list", "leases": "create", "leases semievol-controller": "get update",
        "deployments semievol-controller": "get",
    },
}  # fmt: skip


def _rules(role: Object) -> dict[str, str]:
    return {
        " ".join([resource, *rule.get("resourceNames", [])]): " ".join(sorted(rule["verbs"]))
        for rule in role["rules"]
        for resource in rule["resources"]
    }


def test_roles_allow_what_is_listed_and_nothing_of_the_whole_cluster(release: tuple[Object, ...]) -> None:
    assert of_kind(release, "ClusterRole", "ClusterRoleBinding") == []
    found = {role["metadata"]["name"]: _rules(role) for role in of_kind(release, "Role")}
    serving = found["semievol-controller"].pop("deployments semievol-engine", "")
    assert found == RULES
    engines = next(pod for pod in pods(release) if pod.component == "controller").environment()["SEMIEVOL_CONTROLLER_ENGINES"]
    assert serving == ("get patch" if engines == "pods" else "")  # serving yields to engines of runs
    for binding in of_kind(release, "RoleBinding"):
        assert binding["subjects"] == [
            {"kind": "ServiceAccount", "name": binding["metadata"]["name"], "namespace": charts.NAMESPACE}
        ]


def _documented_flows() -> set[tuple[str, str, int]]:
    """Rows of the table under `### Flows`: from | to | port."""
    section = DOCS.read_text().split("### Flows\n")[1].split("\n#")[0]
    rows = [[cell.strip(" `") for cell in line.strip("|").split("|")] for line in section.splitlines() if line.startswith("| ")]
    return {(source, row[1], int(port)) for row in rows[1:] for source in row[0].split(", ") for port in row[2].split(", ")}


def _peers(policies: dict[str, Object], direction: str) -> set[tuple[str, str, int]]:
    """(component of the policy, the other one, port); `anywhere` for addresses and everybody."""
    by_labels = {json.dumps(one["spec"]["podSelector"], sort_keys=True): name for name, one in policies.items()}
    side = "from" if direction == "ingress" else "to"
    return {
        (name, by_labels[json.dumps(peer["podSelector"], sort_keys=True)] if "podSelector" in peer else "anywhere", port["port"])
        for name, one in policies.items()
        for rule in one["spec"].get(direction) or []
        for peer in rule.get(side, [{}])
        for port in rule["ports"]
    }


def _policies(release: tuple[Object, ...]) -> dict[str, Object]:
    found = {one["metadata"]["name"].removeprefix("semievol-"): one for one in of_kind(release, "NetworkPolicy")}
    found.pop("default")
    return found


def test_the_policies_allow_the_documented_flows_on_both_ends_and_no_other() -> None:
    policies = _policies(render())
    leaving = _peers(policies, "egress")
    arriving = {(source, to, port) for to, source, port in _peers(policies, "ingress")}
    inside = {flow for flow in leaving | arriving if "anywhere" not in flow}
    assert inside == {flow for flow in leaving if "anywhere" not in flow}
    assert inside == {flow for flow in arriving if "anywhere" not in flow}
    outside = {(source, "API server", port) for source, to, port in leaving if to == "anywhere"}
    doors = {flow for flow in arriving if flow[0] == "anywhere"}
    assert inside | outside | doors == _documented_flows()


def test_every_pod_has_a_policy_and_every_other_flow_is_denied(release: tuple[Object, ...]) -> None:
    default = charts.named(release, "NetworkPolicy", "semievol-default")["spec"]
    assert default["policyTypes"] == ["Ingress", "Egress"]
    assert "ingress" not in default
    assert {port["port"] for rule in default["egress"] for port in rule["ports"]} == {53}
    for pod in pods(release):
        assert default["podSelector"]["matchLabels"].items() <= pod.labels.items()
        mine = [
            one for one in _policies(release).values() if one["spec"]["podSelector"]["matchLabels"].items() <= pod.labels.items()
        ]
        assert len(mine) == 1, pod.owner


def test_what_a_pod_calls_is_what_its_policy_allows(release: tuple[Object, ...]) -> None:
    """Addresses in its environment and arguments, against the flows from it."""
    leaving = {(source, to.removesuffix("-headless"), port) for source, to, port in _peers(_policies(release), "egress")}
    for pod in ours(release):
        words = [*pod.environment().values(), *pod.arguments()]
        for name, port in re.findall(r"semievol-([a-z-]+)\.evolving\.svc\.cluster\.local:(\d+)", " ".join(words)):
            assert (pod.component, name.removesuffix("-headless"), int(port)) in leaving


def test_one_certificate_covers_every_name_that_is_called() -> None:
    names = of_kind(render("", "tls.mode=cert-manager", "tls.certManager.issuerRef.name=ca", "engine.runs=pods"), "Certificate")[
        0
    ]["spec"]["dnsNames"]
    called = {
        host
        for pod in ours(render("", "engine.runs=pods"))
        for value in [*pod.environment().values(), *pod.spec["containers"][0].get("args", [])]
        for host in re.findall(r"([\w.-]+\.svc\.cluster\.local):(?!9000|19530)\d+", value)
    }
    assert called
    assert called - set(names) == set()
    assert "localhost" in names  # a port-forward's
    assert f"*.semievol-run-engine.{charts.NAMESPACE}.svc.cluster.local" in names


# ---------------------------------------------------------------- values


@pytest.mark.parametrize(
    ("wrong", "words"),
    [
        ("tls.mode=on", "'off', 'self-signed', 'cert-manager', 'existing'"),
        ("engine.backend=llama", "'transformers', 'vllm'"),
        ("embedding.replica=2", "additional properties 'replica' not allowed"),
        ("router.settings.cache=1", "additional properties 'cache' not allowed"),
        ("embedings.replicas=2", "additional properties 'embedings' not allowed"),
        ("door.replicas=two", "got string, want integer"),
        ("engine.gpu.count=-1", "minimum: got -1, want 0"),
        ("milvus.external.uri=milvus:19530", "does not match pattern '^(https?://.+)?$'"),
        ("controller.settings.parallelism=0", "minimum: got 0, want 1"),
        ("defaults.autoscaling.kind=vpa", "'hpa', 'keda'"),
        ("objectStore.enabled=false", "name your bucket in objectStore.external.bucket"),
        ("milvus.enabled=false", "give your server's address in milvus.external.uri"),
        ("tls.mode=existing", "name the Secret with tls.crt, tls.key and ca.crt in tls.existingSecret"),
        ("tls.mode=cert-manager", "name the issuer in tls.certManager.issuerRef.name"),
        ("models.base=/models/mine", "name the claim that holds it in models.existingClaim"),
        ("embedding.monitor.enabled=true", "embedding has no metrics"),
        ("engine.vllm.seed=1", "engine.vllm is set, but engine.backend is transformers"),
        ("door.ingress.enabled=true", "say under which host name in door.ingress.host"),
        ("door.enabled=false,door.ingress.enabled=true,door.ingress.host=a.example", "but the door is off"),
        ("objectStore.monitor.enabled=true", "say in networkPolicy.metricsFrom where Prometheus is"),
        ("engine.settings.endpoint=https://llm.example", "engine.settings.endpoint has no effect"),
        ("defaults.serviceAccount.create=false", "its Role would be bound to the namespace's default account"),
        ("defaults.serviceAccount.name=shared", "make that ServiceAccount yourself"),
        ("router.podLabels.app\\.kubernetes\\.io/component=x", "app.kubernetes.io/component is the chart's own"),
        ("router.autoscaling.enabled=true,router.autoscaling.minReplicas=0", "keeps at least one replica"),
        ("models.offline=true,models.embedding=gte-small", "models.embedding is gte-small of a hub"),
        ("judging.preStopSeconds=60", "terminationGracePeriodSeconds must be more than preStopSeconds"),
    ],
)
def test_wrong_values_are_refused_in_readable_words(wrong: str, words: str) -> None:
    assert words in charts.refusal(wrong)


@pytest.mark.parametrize("name", ["values.yaml", *VALUES])
def test_values_files_satisfy_the_schema(name: str) -> None:
    schema = json.loads((CHART / "values.schema.json").read_text())
    jsonschema.Draft7Validator.check_schema(schema)
    jsonschema.validate(yaml.safe_load((CHART / name).read_text()), schema)


def test_the_chart_is_of_the_projects_version() -> None:
    chart = yaml.safe_load((CHART / "Chart.yaml").read_text())
    assert chart["version"] == chart["appVersion"] == semievol.__version__


# ---------------------------------------------------------------- upgrades


def _upgraded(tmp_path: Path, there: list[Object], sets: Object, asserts: list[Object]) -> None:
    """Renders the Secrets over those that the cluster has, as an upgrade does, and lets helm-unittest look at them."""
    chart = tmp_path / "chart"
    shutil.copytree(CHART, chart, ignore=shutil.ignore_patterns("tests"))
    shutil.copytree(CHART / "templates" / "tests", chart / "templates" / "tests")
    (chart / "tests").mkdir()
    test = {
        "it": "keeps what is there",
        "release": {"name": charts.RELEASE, "namespace": charts.NAMESPACE, "upgrade": True},
        "set": sets,
        "kubernetesProvider": {
            "scheme": {"v1/Secret": {"gvr": {"version": "v1", "resource": "secrets"}, "namespaced": True}},
            "objects": [one | {"metadata": one["metadata"] | {"namespace": charts.NAMESPACE}} for one in there],
        },
        "asserts": asserts,
    }
    suite = {"suite": "an upgrade", "templates": ["tls.yaml", "secrets.yaml"], "tests": [test]}
    (chart / "tests" / "upgrade_test.yaml").write_text(yaml.safe_dump(suite))
    ended = subprocess.run(
        [str(charts.BINARIES / "helm-unittest"), "--strict", str(chart)], capture_output=True, text=True, check=False
    )
    assert ended.returncode == 0, ended.stdout


def _same(one: Object, *keys: str, same: bool = True) -> list[Object]:
    name = one["metadata"]["name"]
    template = "tls.yaml" if name.endswith(("-tls", "-ca")) else "secrets.yaml"
    return [
        {
            "equal" if same else "notEqual": {"path": f"data['{key}']", "value": one["data"][key]},
            "documentSelector": {"path": "metadata.name", "value": name},
            "template": template,
        }
        for key in keys
    ]


def test_an_upgrade_keeps_tokens_credentials_and_certificates(tmp_path: Path) -> None:
    there = of_kind(render("", "tls.mode=self-signed"), "Secret")
    assert len(there) == 4
    asserts = [check for one in there for check in _same(one, *one["data"])]
    assert len(asserts) == 9
    _upgraded(tmp_path, there, {"tls": {"mode": "self-signed"}}, asserts)


def test_another_name_makes_another_certificate_of_the_same_ca(tmp_path: Path) -> None:
    there = of_kind(render("", "tls.mode=self-signed"), "Secret")
    leaf = next(one for one in there if one["metadata"]["name"] == "semievol-tls")
    asserts = _same(leaf, "ca.crt") + _same(leaf, "tls.crt", "tls.key", same=False)
    _upgraded(tmp_path, there, {"tls": {"mode": "self-signed", "extraNames": ["semievol.example"]}}, asserts)


def test_a_certificate_past_half_its_time_is_made_anew(tmp_path: Path) -> None:
    there = copy.deepcopy(of_kind(render("", "tls.mode=self-signed"), "Secret"))
    leaf = next(one for one in there if one["metadata"]["name"] == "semievol-tls")
    leaf["metadata"]["annotations"]["semievol.dev/renew-after"] = "1"
    asserts = _same(leaf, "ca.crt") + _same(leaf, "tls.crt", "tls.key", same=False)
    _upgraded(tmp_path, there, {"tls": {"mode": "self-signed"}}, asserts)

"""Writes helm/semievol/values.schema.json: `python helm/schema.py [--check]` (what `make chart` checks, and `make chart-docs` writes).

The keys that all components share stand here once; the settings of each room come from its own settings class, so that a field that is
renamed there is refused by the chart.
"""

from __future__ import annotations

import json
import sys
from pathlib import Path
from typing import Any

from pydantic_settings import BaseSettings
from semievol.controller.settings import ControllerSettings
from semievol.door.settings import DoorSettings
from semievol.embedding.settings import EmbeddingSettings
from semievol.generation.backends.vllm_options import VllmOptions
from semievol.generation.router.settings import RouterSettings
from semievol.generation.settings import GenerationSettings
from semievol.judging.settings import JudgingSettings
from semievol.retrieval.settings import RetrievalSettings
from semievol.training.settings import TrainingSettings

FILE = Path(__file__).parent / "semievol" / "values.schema.json"
WIDTH = 150

Schema = dict[str, Any]

TEXT: Schema = {"type": "string"}
NAME: Schema = {"type": "string", "minLength": 1}
SWITCH: Schema = {"type": "boolean"}
COUNT: Schema = {"type": "integer", "minimum": 0}
POSITIVE: Schema = {"type": "integer", "minimum": 1}
OBJECT: Schema = {"type": "object"}

# Settings that the chart itself decides: they are no values under `settings`.
ROOMS: dict[str, tuple[type[BaseSettings], set[str]]] = {
    "embedding": (EmbeddingSettings, {"address", "model"}),
    "retrieval": (RetrievalSettings, {"address", "uri"}),
    "judging": (JudgingSettings, {"address", "generation_address"}),
    "training": (TrainingSettings, {"address", "store", "cache", "checkpoints", "jobs_directory", "launcher"}),
    "controller": (
        ControllerSettings,
        {
            "address",
            "store",
            "launcher",
            "models_directory",
            "jobs_directory",
            "engines",
            "placement",
            "replica_address",
            "server_name",
        }
        | {f"{room}_address" for room in ("embedding", "retrieval", "generation", "judging", "training")},
    ),
    "engine": (GenerationSettings, {"address", "backend", "model", "store", "cache", "adapter_mode", "placement"}),
    "router": (RouterSettings, {"address", "store", "engines"}),
    "door": (DoorSettings, {"address", "generation", "embedding", "api_keys", "api_keys_file"}),
    "vllm": (VllmOptions, set()),
}
PODS = (
    "embedding", "retrieval", "engine", "run-engine", "judging", "training", "training-job", "controller", "step", "router", "door", "test",
    "object-store", "milvus",
)  # fmt: skip


def ref(name: str) -> Schema:
    return {"$ref": f"#/definitions/{name}"}


def one_of(*values: str) -> Schema:
    return {"enum": list(values)}


def mapping(**properties: Schema) -> Schema:
    """Exactly these keys."""
    return {"type": "object", "additionalProperties": False, "properties": properties}


def listed(items: Schema, **more: Any) -> Schema:
    return {"type": "array", "items": items, **more}


def text(pattern: str) -> Schema:
    return {"type": "string", "pattern": pattern}


def room(name: str) -> Schema:
    """The settings of a room that may be given, by type; what they mean is said where they are."""
    cls, ours = ROOMS[name]
    fields: Schema = cls.model_json_schema()["properties"]
    return mapping(**{field: _setting(one) for field, one in fields.items() if field not in ours})


def _setting(field: Schema) -> Schema:
    kind = field.get("type", "string")
    if "enum" in field:
        return one_of(*field["enum"])
    if kind == "array":
        return listed(TEXT)
    bounds = ("minimum", "maximum", "exclusiveMinimum", "exclusiveMaximum")
    return {"type": kind} | {bound: field[bound] for bound in bounds if bound in field}


def definitions() -> Schema:
    timing = mapping(initialDelaySeconds=COUNT, **dict.fromkeys(_TIMES, POSITIVE))
    modes = one_of("ReadWriteOnce", "ReadWriteMany", "ReadWriteOncePod", "ReadOnlyMany")
    return {
        "quantity": {"type": ["string", "number"], "pattern": "^[0-9.]+(m|[kKMGTPE]i?)?$"},
        "quantities": {"type": "object", "additionalProperties": ref("quantity")},
        "size": {"anyOf": [{"const": ""}, ref("quantity")]},
        "port": {"type": "integer", "minimum": 0, "maximum": 65535},
        "texts": {"type": "object", "additionalProperties": TEXT},
        "names": listed(NAME),
        "objects": listed(OBJECT),
        "env": listed(mapping(name=NAME, value=TEXT, valueFrom=OBJECT) | {"required": ["name"]}),
        "image": mapping(
            registry=TEXT, repository=TEXT, tag=TEXT, digest=text("^(sha256:[0-9a-f]{64})?$"),
            pullPolicy=one_of("", "Always", "IfNotPresent", "Never"),
        ),
        "resources": mapping(requests=ref("quantities"), limits=ref("quantities")),
        "serviceAccount": mapping(create=SWITCH, name=TEXT, annotations=ref("texts")),
        "service": mapping(
            type=one_of("ClusterIP", "NodePort", "LoadBalancer"), port=ref("port"), nodePort=ref("port"), annotations=ref("texts")
        ),
        "probes": mapping(startup=timing, readiness=timing, liveness=timing),
        "gpu": mapping(count=COUNT, resourceName=text("^[a-z0-9.-]+/[A-Za-z0-9._-]+$")),
        "persistence": mapping(
            enabled=SWITCH, existingClaim=TEXT, size=ref("quantity"), storageClass=TEXT, accessModes=listed(modes, minItems=1), retain=SWITCH
        ),
        "pdb": mapping(enabled=SWITCH, maxUnavailable={"anyOf": [COUNT, text("^[0-9]+%$")]}),
        "autoscaling": mapping(
            enabled=SWITCH, kind=one_of("hpa", "keda"), minReplicas=COUNT, maxReplicas=POSITIVE, cpuUtilization=POSITIVE,
            metrics=ref("objects"), triggers=ref("objects"),
        ),
        "monitor": mapping(enabled=SWITCH, interval=text("^[0-9]+(ms|s|m|h)$"), labels=ref("texts")),
        "strategy": mapping(type=one_of("RollingUpdate", "Recreate"), rollingUpdate=OBJECT),
        "component": mapping(**COMPONENT, settings=OBJECT),
        **{f"settings.{name}": room(name) for name in ROOMS},
    }  # fmt: skip


_TIMES = ("periodSeconds", "timeoutSeconds", "successThreshold", "failureThreshold")
POD: Schema = {
    **{name: ref(name) for name in ("image", "resources", "env", "serviceAccount", "gpu", "persistence")},
    "volumes": ref("objects"), "volumeMounts": ref("objects"),
    "podAnnotations": ref("texts"), "podLabels": ref("texts"), "podSecurityContext": OBJECT, "securityContext": OBJECT,
    "nodeSelector": ref("texts"), "tolerations": ref("objects"), "affinity": OBJECT, "topologySpreadConstraints": ref("objects"),
    "priorityClassName": TEXT, "runtimeClassName": TEXT, "shmSize": ref("size"), "terminationGracePeriodSeconds": COUNT,
}  # fmt: skip
SERVER: Schema = POD | {
    **{name: ref(name) for name in ("service", "probes", "pdb", "monitor")}, "enabled": SWITCH, "preStopSeconds": COUNT
}  # fmt: skip
COMPONENT: Schema = SERVER | {"replicas": COUNT, "strategy": ref("strategy"), "autoscaling": ref("autoscaling")}
JOB: Schema = POD | {"ttlSecondsAfterFinished": COUNT, "activeDeadlineSeconds": COUNT}


def component(name: str, **more: Schema) -> Schema:
    """One without keys of its own is short."""
    if more:
        return mapping(**COMPONENT, settings=ref(f"settings.{name}"), **more)
    return {"allOf": [ref("component"), {"properties": {"settings": ref(f"settings.{name}")}}]}


def engine() -> Schema:
    return component(
        "engine", backend=one_of("transformers", "vllm"), runs=one_of("serving", "pods"), placement=one_of("auto", "shared", "dedicated"),
        gpus={"type": ["integer", "null"], "minimum": 0}, adapterMode=one_of("auto", "merged", "switched", "hot"),
        vllm=ref("settings.vllm"),
    )  # fmt: skip


def object_store() -> Schema:
    return mapping(
        **SERVER, command=listed(TEXT, minItems=1), bucket=text("^[a-z0-9][a-z0-9.-]{1,61}[a-z0-9]$"), prefix=TEXT,
        credentials=mapping(existingSecret=TEXT, accessKeyKey=NAME, secretKeyKey=NAME),
        external=mapping(endpoint=TEXT, bucket=TEXT, prefix=TEXT, region=TEXT, secure=SWITCH, caSecret=TEXT),
    )  # fmt: skip


def milvus() -> Schema:
    return mapping(
        **SERVER, command=listed(TEXT, minItems=1), configDirectory=text("^/"), config=OBJECT, etcdQuotaBytes=POSITIVE,
        external=mapping(uri=text("^(https?://.+)?$"), existingSecret=TEXT, caSecret=TEXT),
    )  # fmt: skip


def values() -> Schema:
    ingress = mapping(enabled=SWITCH, className=TEXT, annotations=ref("texts"), host=TEXT, tlsSecret=TEXT)
    rooms = ("embedding", "retrieval", "judging", "training", "controller", "router")
    return {
        "global": OBJECT, "nameOverride": TEXT, "fullnameOverride": TEXT, "clusterDomain": NAME,
        "image": mapping(registry=TEXT, tag=TEXT, pullPolicy=one_of("Always", "IfNotPresent", "Never"), pullSecrets=ref("names")),
        "models": mapping(base=NAME, embedding=NAME, existingClaim=TEXT, offline=SWITCH, hubSecret=TEXT),
        "defaults": mapping(**COMPONENT, settings={"type": "object", "maxProperties": 0}),
        **{name: component(name) for name in rooms},
        "door": component("door", ingress=ingress),
        "engine": engine(),
        "jobs": mapping(
            queueName=TEXT, step=mapping(**JOB), training=mapping(**JOB, settings=ref("settings.training")),
            runEngine=mapping(**POD, probes=ref("probes"), settings=ref("settings.engine")),
        ),
        "objectStore": object_store(),
        "milvus": milvus(),
        "tls": mapping(
            mode=one_of("off", "self-signed", "cert-manager", "existing"), mutual=SWITCH, existingSecret=TEXT, extraNames=ref("names"),
            days={"type": "integer", "minimum": 2, "maximum": 3650},
            certManager=mapping(issuerRef=mapping(name=TEXT, kind=NAME, group=TEXT)),
        ),
        "auth": mapping(enabled=SWITCH, existingSecret=TEXT),
        "networkPolicy": mapping(
            enabled=SWITCH, publicFrom=ref("objects"), metricsFrom=ref("objects"), dns=ref("objects"),
            dnsPorts=listed(ref("port"), minItems=1),
            apiServer=mapping(cidrs=ref("names"), ports=listed(ref("port"), minItems=1)),
            extraEgress={"type": "object", "propertyNames": one_of(*PODS), "additionalProperties": ref("objects")},
        ),
    }  # fmt: skip


def schema() -> Schema:
    return {
        "$schema": "http://json-schema.org/draft-07/schema#",
        "title": "Values of the chart semievol (generated: helm/schema.py)",
        **mapping(**values()),
        "definitions": definitions(),
    }


def written(value: Any, indent: int = 0) -> str:
    """As JSON whose lines are full: it is read, too."""
    line = json.dumps(value)
    if len(line) + indent <= WIDTH or not isinstance(value, dict):
        return line
    lines: list[str] = []
    for key, one in value.items():
        entry = f"{json.dumps(key)}: {written(one, indent + 2)}"
        fits = lines and "\n" not in entry + lines[-1] and len(lines[-1]) + len(entry) + indent + 4 <= WIDTH
        if fits and indent:
            lines[-1] += f", {entry}"
        else:
            lines.append(entry)
    inner = " " * (indent + 2)
    return "{\n" + ",\n".join(inner + one for one in lines) + "\n" + " " * indent + "}"


def main() -> None:
    content = written(schema()) + "\n"
    if "--check" not in sys.argv:
        FILE.write_text(content)
    elif FILE.read_text() != content:
        sys.exit(f"{FILE.name}: run make chart-docs")


if __name__ == "__main__":
    main()

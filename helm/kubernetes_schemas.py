"""JSON schemas of a Kubernetes version for kubeconform: `python helm/kubernetes_schemas.py 1.34.4 DIRECTORY`.

The API's own description (`api/openapi-spec/swagger.json`) comes in the Go module k8s.io/kubernetes, which the Go command fetches and keeps.
What it leaves open is closed here, so that a misspelt field is an error: an object has the fields that are described, and no other.
"""

from __future__ import annotations

import json
import os
import shutil
import subprocess
import sys
from pathlib import Path
from typing import Any

Schema = dict[str, Any]

_KINDS = "x-kubernetes-group-version-kind"
_QUANTITY = "io.k8s.apimachinery.pkg.api.resource.Quantity"


def described(version: str) -> Schema:
    """The API's definitions. Raises SystemExit with what the Go command says."""
    go = os.environ.get("GO") or shutil.which("go") or "/usr/local/go/bin/go"
    command = [go, "mod", "download", "-json", f"k8s.io/kubernetes@v{version}"]
    environment = os.environ | {"GOFLAGS": "-modcacherw"}
    ended = subprocess.run(command, capture_output=True, text=True, env=environment, check=False)
    if ended.returncode:
        sys.exit(f"go mod download: {ended.stderr or ended.stdout}")
    source = Path(json.loads(ended.stdout)["Dir"]) / "api" / "openapi-spec" / "swagger.json"
    found: Schema = json.loads(source.read_text())["definitions"]
    return found


def closed(schema: Any) -> Any:
    """The schema without unknown fields, and with null where a field may be left out, as the API server takes it."""
    if isinstance(schema, list):
        return [closed(one) for one in schema]
    if not isinstance(schema, dict):
        return schema
    if schema.get("format") == "int-or-string":
        return {"type": ["string", "integer"]}
    made = {key: closed(value) for key, value in schema.items() if key not in ("description", "default", "format", _KINDS)}
    if isinstance(schema.get("properties"), dict):
        made["additionalProperties"] = False
        made["properties"] = {name: closed(one) for name, one in schema["properties"].items()}
        for name in set(schema["properties"]) - set(schema.get("required", [])):
            made["properties"][name] = {"anyOf": [made["properties"][name], {"type": "null"}]}
    return made


def write(version: str, directory: Path) -> int:
    """`<directory>/v<version>/<kind>-<group>-<version>.json`, and what they refer to; the number of kinds."""
    definitions = described(version)
    target = directory / f"v{version}"
    target.mkdir(parents=True, exist_ok=True)
    shared = {name: closed(one) for name, one in definitions.items()}
    shared[_QUANTITY] = {"type": ["string", "number"]}
    (target / "_definitions.json").write_text(
        json.dumps({"definitions": shared}).replace('"#/definitions/', '"_definitions.json#/definitions/')
    )
    count = 0
    for name, one in definitions.items():
        for kind in one.get(_KINDS, []):
            group = f"-{kind['group'].partition('.')[0]}" if kind["group"] else ""
            file = target / f"{kind['kind']}{group}-{kind['version']}.json".lower()
            file.write_text(json.dumps({"$ref": f"_definitions.json#/definitions/{name}"}))
            count += 1
    return count


if __name__ == "__main__":
    print(f"{write(sys.argv[1], Path(sys.argv[2]))} kinds of Kubernetes {sys.argv[1]}")

"""What runs have published."""

from __future__ import annotations

from pathlib import Path


def manifests(home: Path) -> dict[str, bytes]:
    """Path -> bytes of every manifest: equal manifests mean equal artifacts."""
    root = home / "artifacts"
    return {str(path.relative_to(root)): path.read_bytes() for path in root.rglob("MANIFEST.json")}

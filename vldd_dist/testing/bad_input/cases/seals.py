"""Records with a valid seal, whatever their content is."""

import json
from pathlib import Path
from typing import Any

from vldd_dist.artifacts.manifests import SEAL, canonical, seal_of
from vldd_dist.testing.bad_input.cases import values as bad


def seal(tree: Any) -> bytes:
    """The record with a valid seal, if its content allows one."""
    try:
        return canonical(tree | {SEAL: seal_of(tree)})
    except (TypeError, ValueError, RecursionError):
        return bad.dumped(tree)


def unsealed(path: str) -> dict[str, Any]:
    tree = json.loads(Path(path).read_bytes())
    del tree[SEAL]
    return tree

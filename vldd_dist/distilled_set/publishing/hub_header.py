"""The header of a card, as the Hugging Face hub reads it (https://huggingface.co/docs/hub/datasets-cards)."""

import re
from typing import Any

from vldd_dist.distilled_set.distilled import DistilledSet

# The hub's identifiers of licences for data and text (https://huggingface.co/docs/hub/repositories-licenses). They are the SPDX
# identifiers in lower case, except for those in OTHER_SPELLINGS.
LICENCES = frozenset({
    "apache-2.0", "mit", "bsd-2-clause", "bsd-3-clause", "cc0-1.0", "cc-by-2.0", "cc-by-2.5", "cc-by-3.0", "cc-by-4.0",
    "cc-by-sa-3.0", "cc-by-sa-4.0", "cc-by-nc-2.0", "cc-by-nc-3.0", "cc-by-nc-4.0", "cc-by-nd-4.0", "cc-by-nc-nd-3.0",
    "cc-by-nc-nd-4.0", "cc-by-nc-sa-2.0", "cc-by-nc-sa-3.0", "cc-by-nc-sa-4.0", "cdla-sharing-1.0", "cdla-permissive-1.0",
    "cdla-permissive-2.0", "c-uda", "etalab-2.0", "gfdl", "gpl-2.0", "gpl-3.0", "lgpl-2.1", "lgpl-3.0", "agpl-3.0",
    "mpl-2.0", "odc-by", "odbl", "pddl", "unlicense", "wtfpl", "openrail", "unknown",
})  # fmt: skip
OTHER_SPELLINGS = {
    "odc-by-1.0": "odc-by",
    "odbl-1.0": "odbl",
    "pddl-1.0": "pddl",
    "gfdl-1.3": "gfdl",
    "c-uda-1.0": "c-uda",
    "cc0": "cc0-1.0",
}
# Upper limits of the hub's size categories.
SIZES = {
    name: 10**power
    for power, name in zip(range(3, 13), ["1K", "10K", "100K", "1M", "10M", "100M", "1B", "10B", "100B", "1T"], strict=True)
}


def header_of(distilled: DistilledSet) -> dict[str, Any]:
    """The keys of the header; unknown ones are left out."""
    card, count = distilled.facts.get("card", {}), len(distilled)
    keys = {
        "pretty_name": f"{count} synthetic image-text pairs distilled from {name_of_data(distilled.facts)}",
        **licence_keys(distilled.facts.get("data", {}).get("licence", "unknown")),
        "language": card.get("language"),
        "source_datasets": card.get("datasets"),
        "task_categories": ["image-to-text", "text-to-image"],
        "size_categories": [size_category(count)],
        "tags": ["dataset-distillation", "vision-language", "retrieval", "synthetic", "webdataset"],
        "configs": [{"config_name": "default", "data_files": [{"split": "train", "path": "pairs/*.tar"}]}],
    }
    return {key: value for key, value in keys.items() if value}


def name_of_data(facts: dict[str, Any]) -> str:
    """The name of the real data, as the card shows it."""
    return str(facts.get("card", {}).get("name") or facts.get("data", {}).get("source", "unknown"))


def licence_keys(licence: str) -> dict[str, str]:
    """The hub's identifier of a licence. If it has none: `other`, and a name in the characters that the hub allows."""
    key = re.sub(r"-(only|or-later)$", "", re.sub(r"[\s_]+", "-", licence.strip().lower()))
    key = OTHER_SPELLINGS.get(key, key)
    if key in LICENCES:
        return {"license": key}
    return {"license": "other", "license_name": re.sub(r"[^a-z0-9.]+", "-", key).strip("-.")[:96].strip("-.") or "unnamed"}


def size_category(count: int) -> str:
    """The hub's size category for a number of rows."""
    lower = ""
    for name, limit in SIZES.items():
        if count < limit:
            return f"{lower}<n<{name}" if lower else f"n<{name}"
        lower = name
    return f"n>{lower}"

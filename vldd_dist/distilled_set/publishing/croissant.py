"""Croissant 1.0 metadata (ML Commons): a description of each object of a distilled set for catalogues, search engines and
loaders.

They contain no date, so that the same set always has the same bytes.
"""

from collections.abc import Mapping
from pathlib import PurePosixPath
from typing import Any

from vldd_dist.store.objects import sha256_hex

CONTEXT = {
    "@language": "en",
    "@vocab": "https://schema.org/",
    "citeAs": "cr:citeAs",
    "column": "cr:column",
    "conformsTo": "dct:conformsTo",
    "cr": "http://mlcommons.org/croissant/",
    "data": {"@id": "cr:data", "@type": "@json"},
    "dataBiases": "cr:dataBiases",
    "dataCollection": "cr:dataCollection",
    "dataType": {"@id": "cr:dataType", "@type": "@vocab"},
    "dct": "http://purl.org/dc/terms/",
    "equivalentProperty": "cr:equivalentProperty",
    "examples": {"@id": "cr:examples", "@type": "@json"},
    "extract": "cr:extract",
    "field": "cr:field",
    "fileObject": "cr:fileObject",
    "fileProperty": "cr:fileProperty",
    "fileSet": "cr:fileSet",
    "format": "cr:format",
    "includes": "cr:includes",
    "isLiveDataset": "cr:isLiveDataset",
    "jsonPath": "cr:jsonPath",
    "key": "cr:key",
    "md5": "cr:md5",
    "parentField": "cr:parentField",
    "path": "cr:path",
    "personalSensitiveInformation": "cr:personalSensitiveInformation",
    "rai": "http://mlcommons.org/croissant/RAI/",
    "recordSet": "cr:recordSet",
    "references": "cr:references",
    "regex": "cr:regex",
    "repeated": "cr:repeated",
    "replace": "cr:replace",
    "samplingRate": "cr:samplingRate",
    "sc": "https://schema.org/",
    "separator": "cr:separator",
    "source": "cr:source",
    "subField": "cr:subField",
    "transform": "cr:transform",
}
FORMATS = {
    ".safetensors": "application/octet-stream",
    ".jsonl": "application/jsonlines",
    ".png": "image/png",
    ".tar": "application/x-tar",
    ".md": "text/markdown",
}
CITATION = (
    "@article{wu2023vldd, title={Vision-Language Dataset Distillation}, author={Wu, Xindi and Zhang, Byron and Deng, Zhiwei "
    "and Russakovsky, Olga}, journal={arXiv:2308.07545}, year={2023}}"
)


def croissant_metadata(data: Mapping[str, Any], pairs: int, objects: Mapping[str, bytes]) -> dict[str, Any]:
    """The JSON-LD of a set.

    Args:
        data: facts about the real data: `source` and `licence`.
        pairs: number of synthetic pairs.
        objects: name -> bytes.
    """
    source = data.get("source", "unknown")
    shards = sorted(name for name in objects if name.endswith(".tar"))
    return {
        "@context": CONTEXT,
        "@type": "sc:Dataset",
        "conformsTo": "http://mlcommons.org/croissant/1.0",
        "name": f"{pairs}-synthetic-image-text-pairs",
        "description": f"{pairs} synthetic image-text pairs, distilled from {source} data with vldd_dist. A model is trained "
        "on the tensors of pairs.safetensors; the images and captions are for display.",
        "citeAs": CITATION,
        "license": data.get("licence", "unknown"),
        # Croissant requires a URL; this one is relative, because a set may be copied anywhere.
        "url": ".",
        "version": "1.0.0",
        "distribution": [
            *(_file(name, content) for name, content in objects.items()),
            {
                "@type": "cr:FileSet",
                "@id": "images",
                "containedIn": [{"@id": name} for name in shards],
                "encodingFormat": "image/png",
                "includes": "*.png",
            },
        ],
        "recordSet": _record_sets(),
    }


def _record_sets() -> list[dict[str, Any]]:
    """The captions, and the images for display."""
    return [
        _records(
            "captions",
            "For each pair the nearest training caption before distillation and after, and the cosine after.",
            [
                _field("captions", name, kind, {"fileObject": {"@id": "captions.jsonl"}, "extract": {"column": name}})
                for name, kind in (("before", "sc:Text"), ("after", "sc:Text"), ("similarity", "sc:Float"))
            ],
        ),
        _records(
            "images-of-pairs",
            "Each pair as an image, clipped to eight bits a channel.",
            [
                _field("images-of-pairs", name, kind, {"fileSet": {"@id": "images"}, "extract": {"fileProperty": part}})
                for name, kind, part in (("name", "sc:Text", "filename"), ("image", "sc:ImageObject", "content"))
            ],
        ),
    ]


def _file(name: str, content: bytes) -> dict[str, Any]:
    return {
        "@type": "cr:FileObject",
        "@id": name,
        "name": name,
        "contentUrl": name,
        "contentSize": f"{len(content)} B",
        "encodingFormat": FORMATS[PurePosixPath(name).suffix],
        "sha256": sha256_hex(content),
    }


def _records(name: str, description: str, fields: list[dict[str, Any]]) -> dict[str, Any]:
    return {"@type": "cr:RecordSet", "@id": name, "name": name, "description": description, "field": fields}


def _field(records: str, name: str, kind: str, source: dict[str, Any]) -> dict[str, Any]:
    return {"@type": "cr:Field", "@id": f"{records}/{name}", "name": name, "dataType": kind, "source": source}

"""Croissant 1.0 (ML Commons): what each object of a distilled set is, for catalogues, search engines and loaders.

Without a date: the same set is the same bytes, whenever it is written.
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


def describe(data: Mapping[str, Any], pairs: int, objects: Mapping[str, bytes]) -> dict[str, Any]:
    """JSON-LD of a set of `pairs` made from `data` (its `source` and `licence`), whose objects are name -> bytes."""
    source = data.get("source", "unknown")
    shards = sorted(name for name in objects if name.endswith(".tar"))
    return {
        "@context": CONTEXT,
        "@type": "sc:Dataset",
        "conformsTo": "http://mlcommons.org/croissant/1.0",
        "name": f"{pairs}-synthetic-image-text-pairs",
        "description": f"{pairs} synthetic image-text pairs, distilled from {source} data with vldd_dist. A model is trained "
        "on the tensors of pairs.safetensors; the pictures and captions show what they are.",
        "citeAs": CITATION,
        "license": data.get("licence", "unknown"),
        # Required of a data set on the web; this one is wherever its folder is.
        "url": ".",
        "version": "1.0.0",
        "distribution": [
            *(_file(name, content) for name, content in objects.items()),
            {
                "@type": "cr:FileSet",
                "@id": "pictures",
                "containedIn": [{"@id": name} for name in shards],
                "encodingFormat": "image/png",
                "includes": "*.png",
            },
        ],
        "recordSet": [
            _records(
                "captions",
                "For each pair the nearest training caption before distillation and after, and the cosine after.",
                [
                    _field("captions", name, kind, {"fileObject": {"@id": "captions.jsonl"}, "extract": {"column": name}})
                    for name, kind in (("before", "sc:Text"), ("after", "sc:Text"), ("similarity", "sc:Float"))
                ],
            ),
            _records(
                "pictures-of-pairs",
                "Each pair as a picture: clipped, eight bits a channel.",
                [
                    _field("pictures-of-pairs", name, kind, {"fileSet": {"@id": "pictures"}, "extract": {"fileProperty": part}})
                    for name, kind, part in (("name", "sc:Text", "filename"), ("picture", "sc:ImageObject", "content"))
                ],
            ),
        ],
    }


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

"""The examples at the end of each command's help. A test parses each of them."""

EXAMPLES: dict[str, list[str]] = {
    "init": ["vldd init my-data --from photographs.csv", "vldd init my-data --from OWNER/NAME"],
    "data": ["vldd data my-data/experiment.yaml --out look"],
    "run": [
        "vldd run scenes --plan",
        "vldd run scenes --store results",
        "vldd run scenes --store results --set 'distill.pairs=[50]' --gpus 1",
        "vldd run study.yaml --store s3://bucket/study",
        "vldd run scenes --store debug --set distill.outer_steps=5 --in-process",
    ],
    "submit": [
        "vldd submit scenes --store s3://bucket/scenes --address http://127.0.0.1:8265",
        "vldd submit scenes --store s3://bucket/scenes --until experts",
    ],
    "status": ["vldd status results", "vldd status s3://bucket/scenes --json"],
    "report": ["vldd report results"],
    "table": ["vldd table results", "vldd table results --as latex"],
    "published": ["vldd published", "vldd published lors-flickr30k --as markdown"],
    "config": ["vldd config scenes --set experts.epochs=20"],
    "list": ["vldd list results", "vldd list results --json"],
    "show": ["vldd show results/distilled/scenes-20pairs-seed0-0123abcd"],
    "fetch": ["vldd fetch s3://bucket/scenes/distilled/NAME my-pairs"],
    "verify": ["vldd verify my-pairs", "vldd verify hf://datasets/USER/NAME"],
    "push": [
        "vldd push results/distilled/NAME hf://datasets/USER/NAME",
        "vldd push my-pairs s3://bucket/sets/my-pairs --replace",
    ],
    "gc": ["vldd gc results", "vldd gc results --keep scenes --keep study.yaml --delete"],
    "doctor": ["vldd doctor s3://bucket/prefix"],
}


def epilog(name: str) -> str:
    """The end of a command's help."""
    # \b keeps click from joining the lines.
    return "\n".join(["\b", "Examples:", *(f"  {line}" for line in EXAMPLES[name])])

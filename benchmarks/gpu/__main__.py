"""`python -m benchmarks.gpu --minutes 9 --out DIR [--quick] [--device cpu --tiny]`: checks and figures of one GPU.

It needs the package's core, timm, transformers and peft, but neither Ray nor a network, because weights are random. Each part
writes DIR/parts/NAME.json while it runs; results.json and gpu.md are rewritten after each part. The last line of the output
is one JSON object. The exit code is 0 if all checks pass; missing figures are named but are not a failure.
"""

import argparse
import json
import platform
import signal
import sys
from collections import Counter
from importlib.metadata import PackageNotFoundError, version
from importlib.util import find_spec
from pathlib import Path
from typing import Any

from benchmarks.gpu.notes import write_json
from benchmarks.gpu.parts import PARTS
from benchmarks.gpu.report import page
from benchmarks.gpu.run_parts import Result, run_parts

# Module -> package to install.
NEEDED = {
    "torch": "torch",
    "numpy": "numpy",
    "timm": "timm",
    "transformers": "transformers",
    "peft": "peft",
    "pydantic": "pydantic",
    "safetensors": "safetensors",
    "fsspec": "fsspec",
    "yaml": "pyyaml",
    "tenacity": "tenacity",
    "PIL": "pillow",
}


def main() -> int:
    parser = argparse.ArgumentParser(prog="python -m benchmarks.gpu", description="Checks and figures of one GPU.")
    parser.add_argument("--minutes", type=float, default=9, help="time limit of all parts together")
    parser.add_argument("--out", type=Path, default=Path("build/gpu"), help="folder for the results")
    parser.add_argument("--device", choices=("cuda", "cpu"), default="cuda")
    quick = ", ".join(part.name for part in PARTS if part.kind == "figures" and part.quick)
    parser.add_argument("--quick", action="store_true", help=f"all checks, but only these figures: {quick}")
    parser.add_argument("--tiny", action="store_true", help="small networks, to try the command out")
    parser.add_argument(
        "--only", nargs="+", default=[], metavar="PART", help="run only these parts: " + ", ".join(p.name for p in PARTS)
    )
    options = parser.parse_args()
    if missing := [name for module, name in NEEDED.items() if find_spec(module) is None]:
        parser.error(f"{', '.join(missing)}: not installed: pip install {' '.join(missing)}")
    if unknown := set(options.only) - {part.name for part in PARTS}:
        parser.error(f"--only: there is no part {', '.join(sorted(unknown))}: the parts are {', '.join(p.name for p in PARTS)}")
    # If `timeout` or a scheduler ends this process, the running part ends too.
    signal.signal(signal.SIGTERM, lambda *_: sys.exit(143))
    default = [part.name for part in PARTS if (part.quick or not options.quick) and (part.tiny or not options.tiny)]
    parts = [part for part in PARTS if part.name in (options.only or default)]
    options.out.mkdir(parents=True, exist_ok=True)
    facts = {
        "device": options.device,
        "tiny": options.tiny,
        "machine": platform.platform(),
        "python": platform.python_version(),
        **{name: _version(name) for name in ("torch", "timm", "transformers", "peft", "numpy")},
    }

    def renew(results: list[Result]) -> None:
        write_json(options.out / "results.json", {"facts": facts, "parts": results})
        (options.out / "gpu.md").write_text(page(facts, results))
        last = results[-1]
        print(f"{last['part']}: {last['status']}, {last['seconds']:g} s", *last["problems"][:3], sep="\n  ", flush=True)

    results = run_parts(
        parts, options.out / "parts", device=options.device, tiny=options.tiny, budget=60 * options.minutes, renew=renew
    )
    print(json.dumps(summary(results), allow_nan=False), flush=True)
    return int(any(result["kind"] == "check" and result["status"] != "ok" for result in results))


def summary(results: list[Result]) -> dict[str, Any]:
    """The JSON object of the last line of the output."""
    checks = Counter(result["status"] for result in results if result["kind"] == "check")
    return {
        "checks_ok": checks["ok"],
        "checks_not_ok": checks.total() - checks["ok"],
        "figures": sum(len(result.get("rows", [])) for result in results if result["kind"] == "figures"),
        "seconds": round(sum(result["seconds"] for result in results), 1),
        "parts": {result["part"]: result["status"] for result in results},
    }


def _version(name: str) -> str:
    try:
        return version(name)
    except PackageNotFoundError:
        return "?"


if __name__ == "__main__":
    sys.exit(main())

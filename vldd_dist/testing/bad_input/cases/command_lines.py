"""Bad command lines, submissions and files of weights."""

from pathlib import Path
from random import Random

from vldd_dist.testing.bad_input.case import ANY, NOWHERE, SCENES, Case, kind


@kind(6)
def command_lines(draw: Random) -> Case:
    lines = [[], ["walk"], ["[/b]"], ["run"], ["run", SCENES], ["run", SCENES, "--store"], ["show"], ["fetch", "x"],
             ["list", "a", "b"], ["run", SCENES, "--store", "s", "--plan", "--until", "never"],
             ["run", SCENES, "--store", "s", "--max-running", "0"],
             ["run", SCENES, "--store", "s", "--max-running", "many"], ["gc", "--delete"], ["config"], ["config", "none.yaml"],
             ["config", "."], ["config", "/proc/self/mem"], ["config", SCENES, "--set"], ["config", SCENES, "--set", "x"],
             ["config", SCENES, "--set", "=1"], ["config", SCENES, "--set", "a..b=1"], ["status"], ["submit", SCENES],
             ["run", SCENES, "--store", "s", "--plan", "--frobnicate"], ["run", "x" * 5000, "--store", "s"],
             ["run", SCENES, "--store", "memory://x"], ["\ud800"], ["config", "\udcff"]]  # fmt: skip
    return Case(draw.choice(lines), frozenset({2}))


@kind(2)
def submissions(draw: Random) -> Case:
    wrong = [["--address", NOWHERE], ["--address", "x"], ["--address", ""], ["--address", "ray://127.0.0.1:1"],
             ["--working-dir", "none"], ["--working-dir", "notes.txt"], ["--address", "http://[/b]"]]  # fmt: skip
    address = [] if "--address" in (chosen := draw.choice(wrong)) else ["--address", NOWHERE]
    return Case(["submit", draw.choice([SCENES, "none.yaml"]), "--store", "s3://x/y", *chosen, *address], frozenset({2, 4}))


@kind(2)
def weights_files(draw: Random) -> Case:
    texts = [b"", b"\x80\x02}q\0.", b"PK\x03\x04", b"\xff" * 100, (2**62).to_bytes(8, "little") + b"{}", b"\2\0\0\0\0\0\0\0{}"]
    Path("weights.safetensors").write_bytes(draw.choice(texts))
    path = draw.choice(["weights.safetensors", "none.safetensors", ".", "gopher://x", "/dev/null"])
    return Case(["run", SCENES, "--store", "store", "--plan", "--set", f"model.image.weights={path}"], ANY)

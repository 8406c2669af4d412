"""Plumbing of the benchmarks: a function in a process of its own, its peak memory, the last line of JSON."""

import argparse
import json
import multiprocessing
import os
from collections.abc import Callable
from pathlib import Path
from typing import Any


def parse(description: str) -> argparse.Namespace:
    """Every benchmark takes --quick."""
    parser = argparse.ArgumentParser(description=description, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--quick", action="store_true", help="fewer cases and repeats, the same keys, under five minutes")
    return parser.parse_args()


def in_fresh_process(function: Callable[..., Any], *arguments: Any) -> Any:
    """The function's result, computed by a process that starts from nothing."""
    context = multiprocessing.get_context("spawn")
    receiver, sender = context.Pipe(duplex=False)
    process = context.Process(target=_send_result, args=(sender, function, arguments))
    process.start()
    sender.close()
    try:
        return receiver.recv()
    except EOFError:
        process.join()
        raise RuntimeError(f"{function.__name__}{arguments} ended with exit code {process.exitcode}") from None
    finally:
        process.join()


def _send_result(sender: Any, function: Callable[..., Any], arguments: tuple[Any, ...]) -> None:
    sender.send(function(*arguments))


def peak_mib() -> float:
    """Largest resident size this process has had, MiB (Linux). Not getrusage's: that survives exec, so a child of a large
    parent would begin with the parent's peak."""
    (line,) = [line for line in Path("/proc/self/status").read_text().splitlines() if line.startswith("VmHWM:")]
    return int(line.split()[1]) / 1024


def set_threads() -> None:
    """All cores this process may use."""
    import torch

    torch.set_num_threads(len(os.sched_getaffinity(0)))


def print_result(result: dict[str, float]) -> None:
    """The last line: one JSON object."""
    print(json.dumps({key: round(value, 6) for key, value in result.items()}))

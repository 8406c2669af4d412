"""Processes for tests and benchmarks. Each is a fork of a process that has only imported everything, because importing takes
seconds."""

import multiprocessing
import os
from collections.abc import Callable
from multiprocessing.context import ForkServerContext, ForkServerProcess
from typing import Any


def loaded_processes() -> ForkServerContext:
    """The context that starts the processes, with the environment variables that this process had when the first one
    started."""
    context = multiprocessing.get_context("forkserver")
    context.set_forkserver_preload(["vldd_dist.testing.processes.loaded"])
    return context


def loaded_process(target: Callable[..., None], *arguments: Any) -> ForkServerProcess:
    """A process that calls `target`, with the current environment variables of this process."""
    return loaded_processes().Process(target=_call, args=(dict(os.environ), target, arguments))


def take_environment(variables: dict[str, str]) -> None:
    """Replace all environment variables by these."""
    os.environ.clear()
    os.environ.update(variables)


def _call(variables: dict[str, str], target: Callable[..., None], arguments: tuple[Any, ...]) -> None:
    take_environment(variables)
    target(*arguments)

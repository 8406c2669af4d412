"""How an attempt at a unit ended."""

from dataclasses import dataclass
from typing import Literal


@dataclass(frozen=True)
class Outcome:
    """The end of one attempt at a unit.

    Attributes:
        status: done; refused (the user's input or the store: trying again cannot help); crashed (our program or a library
            raised in the unit); broken (what is around the unit failed: imports, the runtime environment, the working
            directory, Ray's messages, or it reports nothing any more); killed (the worker process died, its machine lives);
            lost (the machine died: nobody's fault); waits (it has gone as far as it can without the input `awaits`, and
            stored that).
        cause: one sentence, empty when done.
        exit_code: what a command that ends because of it returns.
        awaits: a unit's id.
        node: Ray's id of the node it ran on, where that is known.
    """

    status: Literal["done", "refused", "crashed", "broken", "killed", "lost", "waits"]
    cause: str = ""
    exit_code: int = 0
    awaits: str = ""
    node: str | None = None


DONE = Outcome("done")


class InputAwaited(Exception):
    """Raised by a unit that could start but cannot end without an input that is not committed yet.

    Attributes:
        role: of that input.
    """

    def __init__(self, role: str) -> None:
        super().__init__(f"{role} is not committed yet")
        self.role = role

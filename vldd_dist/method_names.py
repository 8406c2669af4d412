"""Names of methods, by the pairs that students are trained on: `FULL` is all real pairs, `DISTILLED` is distilled pairs; a
coreset has its own name."""

FULL, DISTILLED = "full", "distilled"


def display_name(method: str) -> str:
    """The name of a method in tables and plots."""
    return "full data" if method == FULL else method.replace("_", "-")

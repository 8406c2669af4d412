"""Durations as text."""


def duration(seconds: float) -> str:
    """For example "5 s", "1 min 05 s" or "2 h 03 min"."""
    hours, rest = divmod(round(seconds), 3600)
    minutes, rest = divmod(rest, 60)
    if hours:
        return f"{hours} h {minutes:02} min"
    return f"{minutes} min {rest:02} s" if minutes else f"{rest} s"

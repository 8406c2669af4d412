"""The id of a run and its status, as they are in the store."""

RUN = "0a1b2c3d"
STATUS = {
    "experiment": "scenes",
    "run": RUN,
    "state": "running",
    "stages": {"expert": {"total": 3, "done": 1, "failed": 0}},
    "running": [{"label": "expert 1", "seconds": 2.5, "event": {"done": 5, "total": 10, "loss": 1.5}}],
    "time_left": "about 5 s left",
    "notices": ["expert 0: retried: its process or machine ended"],
}

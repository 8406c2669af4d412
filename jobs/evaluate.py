"""Runs the evaluations and publications of an experiment, with all they need, as a Ray job. Arguments as in `jobs.run`."""

import sys

from vldd_dist.cli.main import main

if __name__ == "__main__":
    main(["run", *sys.argv[1:], "--until", "publications"])

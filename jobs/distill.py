"""Runs the distillations of an experiment, with the experts that they need, as a Ray job. Arguments as in `jobs.run`."""

import sys

from vldd_dist.cli.main import main

if __name__ == "__main__":
    main(["run", *sys.argv[1:], "--until", "distillations"])

"""Runs a whole experiment as a Ray job: `ray job submit -- python -m jobs.run jobs/presets/X.yaml --store s3://...`."""

import sys

from vldd_dist.cli.main import main

if __name__ == "__main__":
    main(["run", *sys.argv[1:]])

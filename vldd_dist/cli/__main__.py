"""`python -m vldd_dist.cli` is `vldd`: what a submitted job runs."""

from vldd_dist.cli.main import main

main()

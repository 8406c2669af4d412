"""`python -m vldd_dist.cli` is the same as `vldd`. Submitted jobs use this form."""

from vldd_dist.cli.main import main

main()

"""Students of applications: heads that are trained on features of a frozen backbone."""

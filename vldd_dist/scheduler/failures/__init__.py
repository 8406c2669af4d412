"""How the scheduler treats units that fail, hang, or run much slower than others of their kind."""

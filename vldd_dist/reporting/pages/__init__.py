"""Self-contained HTML pages: the report of an experiment, and that of a data source."""

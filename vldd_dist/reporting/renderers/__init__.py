"""How a `reporting.table.Table` is drawn: one file a format."""

"""Reading tables row by row: one file a format. A row has a position, from which on the table can be read again."""

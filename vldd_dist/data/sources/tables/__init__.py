"""Reading tables row by row, one file for each format. Each row has a position at which reading can start again."""

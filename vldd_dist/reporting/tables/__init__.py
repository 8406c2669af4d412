"""Tables of results as plain values, and the formats in which they are written."""

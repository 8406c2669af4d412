"""From a source to canonical shards: units prepare groups of samples, which are merged into one data set."""

"""From a source to canonical shards: groups of samples, each prepared by a unit, merged into one data set."""

"""Metrics beside recall, one file each, registered in `plugins.METRICS`; `evaluation.metrics` names those to report."""

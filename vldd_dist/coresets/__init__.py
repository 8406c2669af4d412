"""Coresets: M real pairs, the baselines of every distilled set; one file a method, registered in `plugins.CORESETS`."""

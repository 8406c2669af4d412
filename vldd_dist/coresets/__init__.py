"""Coresets: M real pairs, or means of real pairs, as baselines for distilled sets; one file for each method
(`plugins.CORESETS`)."""

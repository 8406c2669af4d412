"""Coresets: M real pairs or means of some, the baselines of distilled sets; one file a method (`plugins.CORESETS`)."""

"""Measures uses of distilled pairs: one file for each application, registered in `plugins.APPLICATIONS`."""

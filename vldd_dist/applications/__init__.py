"""What distilled pairs are good for, measured: one file an application, registered in `plugins.APPLICATIONS`."""

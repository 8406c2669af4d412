"""What differs between kinds of storage: local folders, S3 and other object storage, web servers."""

"""A store in a bucket of its own."""

import secrets

from vldd_dist.store.store import Store


def new_bucket() -> Store:
    """A store in a new bucket of the S3 server that the environment names."""
    name = f"tests-{secrets.token_hex(8)}"
    store = Store(f"s3://{name}/experiment")
    store.fs.mkdir(name)
    return store

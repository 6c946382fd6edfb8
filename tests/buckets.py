"""A real S3 API on loopback (moto's server), for tests of ledgers in object stores."""

from __future__ import annotations

import contextlib
import logging
from collections.abc import Iterator

import pytest

KEY, SECRET = "canary-key-id", "canary-secret-access-key"
"""Credentials that must not turn up in anything that is written."""


@contextlib.contextmanager
def bucket() -> Iterator[str]:
    """Serve an empty bucket; its credentials are in the environment meanwhile, as on a node with a role.

    Yields:
        Address of a prefix in the bucket, with the server's address in its options.
    """
    from moto.server import ThreadedMotoServer
    from pyarrow.fs import S3FileSystem

    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("AWS_ACCESS_KEY_ID", KEY)
        patch.setenv("AWS_SECRET_ACCESS_KEY", SECRET)
        logging.getLogger("werkzeug").setLevel(logging.WARNING)  # a line per request
        server = ThreadedMotoServer(ip_address="127.0.0.1", port=0, verbose=False)
        with contextlib.redirect_stdout(None):
            server.start()
            host, port = server.get_host_and_port()
        endpoint = f"{host}:{port}"
        S3FileSystem(
            endpoint_override=endpoint, scheme="http", region="us-east-1", allow_bucket_creation=True
        ).create_dir("studies")
        try:
            yield f"s3://studies/lab?endpoint_override={endpoint}&scheme=http&region=us-east-1"
        finally:
            server.stop()

"""Certificates for brokers that speak TLS."""

from __future__ import annotations

import ssl
from functools import cache
from pathlib import Path

import trustme
from cryptography.hazmat.primitives.serialization import (
    Encoding,
    NoEncryption,
    PrivateFormat,
    load_pem_private_key,
)

from .reaper import reaper


class Certificates:
    """A certificate for 127.0.0.1 and localhost, as files, and the authority that vouches for it."""

    def __init__(self, folder: Path) -> None:
        authority = trustme.CA()
        issued = authority.issue_cert("localhost", "127.0.0.1")
        key = load_pem_private_key(issued.private_key_pem.bytes(), password=None)
        # The one form that Kafka reads.
        key_pem = key.private_bytes(Encoding.PEM, PrivateFormat.PKCS8, NoEncryption())
        self.authority = folder / "authority.pem"
        authority.cert_pem.write_to_path(self.authority)
        self.key_and_chain = folder / "server.pem"
        self.key_and_chain.write_bytes(key_pem + b"".join(each.bytes() for each in issued.cert_chain_pems))

    def context(self) -> ssl.SSLContext:
        """What a client needs to trust the brokers."""
        return ssl.create_default_context(cafile=self.authority)


@cache
def certificates() -> Certificates:
    """Those of this process."""
    return Certificates(reaper().folder)

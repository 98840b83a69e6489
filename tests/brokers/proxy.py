"""The proxy that ships with the conformance suite, under the name by which the tests of brokers know it."""

from hubsub.testing.conformance import Proxy

__all__ = ["Proxy"]

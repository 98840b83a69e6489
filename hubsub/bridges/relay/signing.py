"""Signatures: they prove that a message was sent by a holder of the secret, to its key and namespace, and only once.

A signature is HMAC-SHA256, truncated to 128 bits, of these. The length in characters precedes each text, so that two
different messages are never signed alike:

1. `hubsub 1`, and the namespace;
2. how many parts the key has, and the parts, as at the broker: without the bridge's prefix;
3. the head of the signature: who signs, the time, and a number that counts up, in fixed widths;
4. `e` and everything after the signature in an envelope; or `h`, the attributes of the event in the headers, each
   other header with its name, and the payload.
"""

from __future__ import annotations

import os
import time
from bisect import bisect_right
from collections.abc import Callable, Mapping, Sequence
from hashlib import sha256
from hmac import compare_digest
from typing import Any, TypeAlias

from ...errors import SignatureError
from ...key import NAMESPACE, Key

Secrets: TypeAlias = str | bytes | Sequence[str | bytes]
"""A secret, or several: the first one signs, and a signature by any of them is accepted."""

HEAD = 41
"""Characters of the head: 16 hexadecimal digits that name the signer, 10 decimal ones of the seconds since the epoch,
and 12 of the number, each followed by `-`."""
WIDTH = HEAD + 32
"""Characters of a signature: the head, followed by the digits of the HMAC."""

_RUN = 28
"""Characters of the head that many messages have in common: the name and the seconds."""

Hash: TypeAlias = Callable[[], Any]
"""Returns a copy of a hash that was fed with what comes first."""


class Signer:
    """Signs and verifies the messages of a bridge.

    Args:
        secrets: See `Secrets`.
        namespace: That of the bridge: what was signed for another one is refused.
        prefix: A prefix that the keys have here, but not at the broker.
        window: Seconds that a live message may be older than the clock here, or ahead of it.

    Raises:
        ValueError: There is no secret, a secret is empty, or the window is not positive.
    """

    # Signers that are remembered; see `_meet`.
    MOST_SIGNERS = 1024

    def __init__(self, secrets: Secrets, namespace: str, prefix: Sequence[str], window: float) -> None:
        if not window > 0:
            raise ValueError(f"the window of signatures is more than 0 seconds, not {window!r}")
        start = f"hubsub 1{_measured(namespace)}".encode("utf-8", "surrogatepass")
        (self._inner, self._outer), *self._others = [_keyed(secret, start) for secret in _each_of(secrets)]
        self._prefix = len(prefix)
        self._window = window
        self._heard: dict[str, _Numbers] = {}
        # What is expected next of the last signer: the beginning that a hundred heads have in common, the index in that
        # hundred, the numbers of that signer, and the times between which they are within the window.
        self._expected, self._expected_hundred, self._expected_place = "", "", 0
        self._expected_of = _Numbers()
        self._expected_from = self._expected_until = 0.0
        self.renew()

    def renew(self) -> None:
        """In a fork, start to count again under another name."""
        self._name = os.urandom(8).hex()
        self._count = -1  # of hundreds
        self._hundred, self._place = "", len(_PLACES)
        self._since = self._until = 0.0

    def of_key(self, key: Key[Any]) -> Hash:
        """Return what the signed text of a key begins with; the key is given as in this process."""
        inner = self._inner()
        inner.update(self._key_text(key))
        copy: Hash = inner.copy
        return copy

    def _key_text(self, key: Key[Any]) -> bytes:
        parts = key if key[0] == NAMESPACE else key[self._prefix :]
        return f"{len(parts)};{''.join(map(_measured, parts))}".encode("utf-8", "surrogatepass")

    def sign(self, of_key: Hash, text: str, data: bytes) -> str:
        """Return a signature as of now.

        Args:
            of_key: What `of_key` has returned.
            text: `ENVELOPE`, or what is signed of the headers.
            data: What follows the signature in an envelope; or the payload.
        """
        if not self._since <= time.time() < self._until:
            self._look_at_the_clock()
        place = self._place
        try:
            head = self._hundred + _PLACES[place]
        except IndexError:
            self._count += 1
            self._look_at_the_clock()
            place, head = 0, self._hundred + _PLACES[0]
        self._place = place + 1
        # Inlined as in `verify`: a call for each message would show in the throughput.
        inner, outer = of_key(), self._outer()
        try:
            inner.update(f"{head}{text}".encode() + data)
        except UnicodeEncodeError:
            inner.update(f"{head}{text}".encode("utf-8", "surrogatepass") + data)
        outer.update(inner.digest())
        signature: str = head + outer.hexdigest()[:_DIGITS]
        return signature

    def _look_at_the_clock(self) -> None:
        second = int(time.time())
        self._since, self._until = float(second), second + 1.0
        self._hundred = f"{self._name}-{second:010}-{self._count:010}"

    def verify(self, key: Key[Any], of_key: Hash, signature: str, text: str, data: bytes, live: bool) -> None:
        """Return if it was signed with one of the secrets and, if `live`, within the window and for the first time.

        Args:
            key: The key, as in this process.
            of_key: What `of_key` has returned of it.
            signature: Anything that claims to be one.
            text: As of `sign`.
            data: As of `sign`.
            live: Whether its age and number count.

        Raises:
            SignatureError: It was not; the error says why.
        """
        head = signature[:HEAD]
        try:
            signed = f"{head}{text}".encode() + data
        except UnicodeEncodeError:
            signed = f"{head}{text}".encode("utf-8", "surrogatepass") + data
        inner, outer = of_key(), self._outer()
        inner.update(signed)
        outer.update(inner.digest())
        try:
            if not compare_digest(outer.hexdigest()[:_DIGITS], signature[HEAD:]):
                self._verify_by_others(key, signature, signed)
        except TypeError:  # it is not text in ASCII
            raise _wrong(key) from None
        if not live:
            return
        if head != self._expected or not self._expected_from <= time.time() <= self._expected_until:
            self._hear(key, head)
            return
        place = self._expected_place
        try:
            self._expected = self._expected_hundred + _PLACES[place]
            self._expected_place = place + 1
        except IndexError:
            self._hear(key, head)

    def _verify_by_others(self, key: Key[Any], signature: str, signed: bytes) -> None:
        """Return if it was signed with one of the other secrets that are accepted."""
        for copy_inner, copy_outer in self._others:
            inner, outer = copy_inner(), copy_outer()
            inner.update(self._key_text(key) + signed)
            outer.update(inner.digest())
            if compare_digest(outer.hexdigest()[:_DIGITS], signature[HEAD:]):
                return
        raise _wrong(key)

    def _hear(self, key: Key[Any], head: str) -> None:
        """Check signer, time and number of a head; the next message is expected from the same signer.

        Raises:
            SignatureError: It is beyond the window, or its number has come before.
        """
        if self._expected:
            self._expected_of.expected = int(self._expected[_RUN:-1])
            self._expected = ""
        name, second, number = head[:16], int(head[17 : _RUN - 1]), int(head[_RUN:-1])
        age = time.time() - second
        if not -self._window <= age <= self._window:
            when = f"{age:.0f} s ago" if age > 0 else f"{-age:.0f} s from now"
            raise SignatureError(
                key, f"it was signed {when}, beyond the window of {self._window:g} s; is a clock wrong?"
            )
        numbers = self._heard.get(name)
        if numbers is None:
            numbers = self._meet(name)
        numbers.second = max(numbers.second, second)
        if not numbers.add(number):
            raise SignatureError(key, "it has come before, and was sent again by somebody", is_replay=True)
        hundred, place = divmod(numbers.expected, len(_PLACES))
        self._expected_hundred, self._expected_place = f"{head[:_RUN]}{hundred:010}", place + 1
        self._expected, self._expected_of = self._expected_hundred + _PLACES[place], numbers
        self._expected_from, self._expected_until = second - self._window, second + self._window

    def _meet(self, name: str) -> _Numbers:
        """Remember a new signer. If there are too many, forget those silent for a window, or else the quietest."""
        if len(self._heard) >= self.MOST_SIGNERS:
            by_time = sorted(self._heard.items(), key=lambda item: item[1].second)
            begin = bisect_right(by_time, time.time() - self._window, key=lambda item: item[1].second)
            self._heard = dict(by_time[begin or self.MOST_SIGNERS // 4 :])
        heard = self._heard[name] = _Numbers()
        return heard


class _Numbers:
    """The numbers of a signer that have come: all below the expected one, except some ranges."""

    __slots__ = ("_missing", "expected", "second")

    # The ranges that are remembered, at least; numbers below them count as having come.
    MOST = 1024

    def __init__(self) -> None:
        self.expected = 0
        self._missing: list[tuple[int, int]] = []  # first, and last + 1, in order
        self.second = 0
        """When the last of them was signed, in seconds since the epoch."""

    def add(self, number: int) -> bool:
        """Note that a number has come; return False if it had already."""
        expected = self.expected
        if number >= expected:
            self.expected = number + 1
            if number > expected:
                self._missing.append((expected, number))
                if len(self._missing) > 2 * self.MOST:
                    del self._missing[: self.MOST]
            return True
        index = bisect_right(self._missing, number, key=lambda each: each[0]) - 1
        first, end = self._missing[index] if index >= 0 else (0, 0)
        if not first <= number < end:
            return False
        self._missing[index : index + 1] = [each for each in ((first, number), (number + 1, end)) if each[0] < each[1]]
        return True


# What is signed


ENVELOPE = "e"
"""What is signed of an envelope, before what follows the signature."""


def in_headers(attributes: Mapping[str, str], others: Mapping[str, str], has_payload: bool) -> str:
    """Return what is signed before the payload of a message with its attributes and content type in headers."""
    parts = ["h"]
    parts += [_measured(attributes[name]) if name in attributes else "-" for name in _PLAIN]
    for headers, names in ((attributes, attributes.keys() - set(_PLAIN)), (others, others.keys())):
        parts.append(f"{len(names)};")
        for name in sorted(names):
            parts += (_measured(name), _measured(headers[name]))
    return "".join(parts) + ("=" if has_payload else "-")


NO_MORE = "0;0;="
"""What is signed between id and time of a message that has only the plain attributes, and its payload.

For such a message, `in_headers` returns `constant_of` its source, then id and time, each after its length and a colon,
then this.
"""


def constant_of(source: str, type: str, content_type: str) -> str:
    """Return what is signed of the attributes that all plain messages of a source have in common."""
    return f"h{_measured('1.0')}{_measured(source)}{_measured(type)}{_measured(content_type)}"


_PLAIN = ("ce_specversion", "ce_source", "ce_type", "content-type", "ce_id", "ce_time")


def _measured(text: str) -> str:
    return f"{len(text)}:{text}"


# HMAC (RFC 2104) by its two hashes, which were fed with the padded secret once and are copied for each message.
# `hmac.digest` starts with the secret every time, which takes longer than all the rest of a short message.


_DIGITS = WIDTH - HEAD
_PLACES = [f"{place:02}-" for place in range(100)]
"""The ends of a hundred heads."""


def _keyed(secret: bytes, start: bytes) -> tuple[Hash, Hash]:
    block = sha256().block_size
    if len(secret) > block:
        secret = sha256(secret).digest()
    secret = secret.ljust(block, b"\0")
    inner, outer = sha256(bytes(byte ^ 0x36 for byte in secret)), sha256(bytes(byte ^ 0x5C for byte in secret))
    inner.update(start)
    return inner.copy, outer.copy


def _wrong(key: Key[Any]) -> SignatureError:
    return SignatureError(key, "its signature is wrong: it is of another secret, namespace or key, or was changed")


def _each_of(secrets: Secrets) -> list[bytes]:
    try:
        each = [secrets] if isinstance(secrets, (str, bytes)) else list(secrets)
    except TypeError:
        each = []
    if not each or not all(isinstance(secret, (str, bytes)) and secret for secret in each):
        raise ValueError("a secret is a str or bytes, and not empty; several are a sequence of at least one")
    return [secret.encode("utf-8", "surrogatepass") if isinstance(secret, str) else bytes(secret) for secret in each]

"""TLS: what the options of an adapter say of it, and files that are renewed while a bridge runs."""

from __future__ import annotations

import os
import ssl
from collections.abc import Mapping, Sequence
from typing import Any

from .urls import Option


def _context(value: Any) -> ssl.SSLContext:
    if not isinstance(value, ssl.SSLContext):
        raise ValueError
    return value


CONTEXT = Option("an ssl.SSLContext", _context)
"""The option `ssl_context`."""


class Tls:
    """Has a context for each connection: the one that was given, or what files of certificates say at that moment.

    Args:
        context: The one that was given; then there are no files.
        cafile: Trusted authorities in PEM; None for those of the system.
        certfile: The certificate that clients show, with its chain, in PEM; None if they show none.
        keyfile: The key of that certificate, if it is in a file of its own.

    Raises:
        OSError: A file cannot be read.
    """

    def __init__(
        self,
        context: ssl.SSLContext | None = None,
        *,
        cafile: str | None = None,
        certfile: str | None = None,
        keyfile: str | None = None,
    ) -> None:
        self._cafile, self._certfile, self._keyfile = cafile, certfile, keyfile
        self._files = [] if context is not None else [file for file in (cafile, certfile, keyfile) if file is not None]
        self._state = self._look()
        self._context = context or self._read()

    def context(self) -> ssl.SSLContext:
        """Return the context for a new connection.

        It is made anew when a file has changed, and only then: reading the authorities of a system stops the loop for
        a while. While the files cannot be read, as in the middle of a renewal, it is the one of before.
        """
        try:
            if (state := self._look()) != self._state:
                self._context, self._state = self._read(), state
        except OSError:
            pass  # the next connection tries again
        return self._context

    def _look(self) -> list[tuple[int, ...]]:
        return [(at.st_dev, at.st_ino, at.st_mtime_ns, at.st_size) for at in map(os.stat, self._files)]

    def _read(self) -> ssl.SSLContext:
        context = ssl.create_default_context(cafile=self._cafile)
        if self._certfile is not None:
            context.load_cert_chain(self._certfile, self._keyfile)
        return context


def read_tls(
    values: Mapping[str, Any], scheme: str | None, files: Sequence[str] = ("cafile", "certfile", "keyfile")
) -> Tls | None:
    """Return what options say of TLS; None if the URL does not ask for it.

    Args:
        values: The options; `ssl_context` among them, perhaps.
        scheme: With which a URL asks for TLS, if this one does not; else None.
        files: The names of the options that are files: of authorities, of a certificate, and of its key.

    Raises:
        TypeError: They do not fit together, or to the URL.
        ValueError: A file cannot be read, or is no file of certificates.
    """
    given = [name for name in files if values.get(name) is not None]
    context = values.get("ssl_context")
    if scheme is not None:
        if given or context is not None:
            raise TypeError(f"{', '.join(given) or 'ssl_context'} is for TLS: begin the URL with {scheme}://")
        return None
    if context is not None and given:
        raise TypeError(f"ssl_context has all that {', '.join(given)} would say; give one or the other")
    cafile, certfile, keyfile = (values.get(name) for name in files)
    if keyfile is not None and certfile is None:
        raise TypeError(f"{files[2]} needs {files[1]}")
    try:
        return Tls(context, cafile=cafile, certfile=certfile, keyfile=keyfile)
    except OSError as error:
        # Without the name: it may be from the URL, and so the rest of a password that was not encoded.
        why = error.strerror or type(error).__name__
        raise ValueError(f"{', '.join(given)} must be files of certificates that can be read: {why}") from None

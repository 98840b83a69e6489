"""TLS: what the options of an adapter say of it, and files that are renewed while a bridge runs."""

from __future__ import annotations

import os
import ssl
from collections.abc import Callable, Iterable, Mapping, Sequence
from typing import Any

from .urls import Option


def _context(value: Any) -> ssl.SSLContext:
    if not isinstance(value, ssl.SSLContext):
        raise ValueError
    return value


CONTEXT = Option("an ssl.SSLContext", _context)
"""The option `ssl_context`."""


class Tls:
    """Has the context for each connection, and makes it anew when files of certificates have changed.

    Args:
        make: Makes a context of the files. That takes long, and the loop stands still meanwhile.
        files: Their names.
    """

    def __init__(self, make: Callable[[], ssl.SSLContext], files: Iterable[str] = ()) -> None:
        self._make = make
        self._files = tuple(files)
        self._state: object = None
        self._context: ssl.SSLContext | None = None

    @classmethod
    def of_files(cls, cafile: str | None = None, certfile: str | None = None, keyfile: str | None = None) -> Tls:
        """Return one that makes contexts of the standard library.

        Args:
            cafile: Trusted authorities in PEM; None for those of the system.
            certfile: The certificate that clients show, with its chain, in PEM; None if they show none.
            keyfile: The key of that certificate, if it is in a file of its own.
        """

        def make() -> ssl.SSLContext:
            context = ssl.create_default_context(cafile=cafile)
            if certfile is not None:
                context.load_cert_chain(certfile, keyfile)
            return context

        return cls(make, [file for file in (cafile, certfile, keyfile) if file is not None])

    def context(self) -> ssl.SSLContext:
        """Return the context for a new connection.

        While the files cannot be read, as in the middle of a renewal, it is the one of before.

        Raises:
            OSError: They cannot be read, and there is none of before.
        """
        context = self._context
        try:
            # Before they are read: if one is changed meanwhile, the next connection reads it.
            state = [(at.st_dev, at.st_ino, at.st_mtime_ns, at.st_size) for at in map(os.stat, self._files)]
            if context is None or state != self._state:
                context = self._make()
                self._context, self._state = context, state
        except OSError:
            if context is None:
                raise
        return context


def read_tls(
    values: Mapping[str, Any], scheme: str | None, files: Sequence[str] = ("cafile", "certfile", "keyfile")
) -> Tls | None:
    """Return what options say of TLS; None if the URL does not ask for it.

    Args:
        values: The options; `ssl_context` among them, perhaps.
        scheme: The scheme that asks for TLS, if that of the URL does not; None if it does.
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
    if files[2] in given and files[1] not in given:
        raise TypeError(f"{files[2]} needs {files[1]}")
    if context is not None:
        return Tls(lambda: context)
    tls = Tls.of_files(*(values.get(name) for name in files))
    try:
        tls.context()
    except OSError as error:
        # Without the name: it may be from the URL, and so the rest of a password that was not encoded.
        why = error.strerror or type(error).__name__
        raise ValueError(f"{', '.join(given)} must be files of certificates that can be read: {why}") from None
    return tls

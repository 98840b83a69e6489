"""What a URL of a broker says, and the options in it and beside it; nothing secret is repeated."""

from __future__ import annotations

import traceback
from typing import Any

import pytest

from hubsub.bridges.urls import Option, count, one_of, or_none, read_options, read_url, seconds

SECRET = "s3cret"


def read(url: str) -> Any:
    return read_url(url, like="db://user:password@host:5432/name", port=5432, schemes={"db": False, "dbs": True})


@pytest.mark.parametrize(
    ("url", "hosts", "path"),
    [
        ("db://localhost", [("localhost", 5432)], ""),
        ("db://", [("localhost", 5432)], ""),
        ("db:///orders", [("localhost", 5432)], "orders"),
        ("db://a:1,b:2,c/x%2Fy", [("a", 1), ("b", 2), ("c", 5432)], "x/y"),
        ("db://[::1]:7/x", [("::1", 7)], "x"),
        ("db://%2Frun%2Fsocket/x", [("%2Frun%2Fsocket", 5432)], "x"),
    ],
)
def test_hosts_and_path_are_read(url: str, hosts: list[tuple[str, int]], path: str) -> None:
    it = read(url)
    assert (list(it.hosts), it.path, it.user, it.password) == (hosts, path, None, None)


def test_a_login_and_options_are_decoded_and_a_plus_is_a_plus() -> None:
    it = read("dbs://me%40home:p%2Fa+s%3As@h/n?a=1&b=x%20y+z&a=2&c=")
    assert (it.user, it.password, it.tls) == ("me@home", "p/a+s:s", True)
    assert it.options == (("a", "1"), ("b", "x y+z"), ("a", "2"), ("c", ""))
    assert "p/a" not in repr(it)
    assert "me@" not in repr(it)


@pytest.mark.parametrize(
    "url",
    [
        f"other://user:{SECRET}@h",
        f"db:user:{SECRET}@h",
        f"db://user:{SECRET}@h:port",
        f"db://user:{SECRET}@h:0",
        f"db://user:{SECRET}@h:65536",
        f"db://user:{SECRET}/@h",
        f"db://user:x@{SECRET}@h",
        f"db://user:{SECRET}#@h",
        f"db://user:?{SECRET}@h",
        f"db://user:{SECRET}%FF@h",
        f"db://user:{SECRET}@h?a={SECRET}%FF",
        f"db://user:{SECRET}@h?{SECRET}",
        f"db://user:{SECRET}@h x",
        f"db://user:{SECRET}@[::1",
        f"db://user:{SECRET}@a,,b:c",
    ],
)
def test_a_url_that_makes_no_sense_is_refused_and_not_repeated(url: str) -> None:
    with pytest.raises(ValueError, match="like db://user:password@host:5432/name") as caught:
        read(url)
    assert SECRET not in "".join(traceback.format_exception(caught.value))


OPTIONS = {
    "maxlen": or_none(count("messages")),
    "lease": seconds(),
    "mode": one_of("fast", "safe"),
    "channel": Option("a name", str, several=True),
    "token": Option("a whole number", int, is_secret=True),
}


def test_options_are_the_same_in_a_url_and_beside_it() -> None:
    given = {"maxlen": 5, "lease": 2.5, "mode": "safe", "channel": ["a", "b"]}
    in_url = (("maxlen", "5"), ("lease", "2.5"), ("mode", "safe"), ("channel", "a"), ("channel", "b"))
    assert read_options("X", OPTIONS, given) == read_options("X", OPTIONS, {}, in_url)
    assert read_options("X", OPTIONS, {"maxlen": None}) == read_options("X", OPTIONS, {}, (("maxlen", "None"),))


@pytest.mark.parametrize(
    ("name", "value"),
    [
        *[("maxlen", value) for value in (0, 1.5, True, "x", float("inf"))],
        *[("lease", value) for value in (0, -1, float("nan"), float("inf"), "1e9", None, True)],
        *[("mode", value) for value in ("other", None, 1)],
    ],
)
def test_a_value_that_makes_no_sense_is_repeated_only_where_it_is_an_argument(name: str, value: Any) -> None:
    with pytest.raises(ValueError, match=f"^{name} must be .*, not {value!r}$"):
        read_options("X", OPTIONS, {name: value})
    with pytest.raises(ValueError, match=f"^{name} must be ") as caught:
        read_options("X", OPTIONS, {}, ((name, f"{SECRET}"),))
    assert SECRET not in str(caught.value)


def test_an_option_that_does_not_exist_or_is_given_twice_is_refused() -> None:
    with pytest.raises(TypeError, match="X has no option colour: it has maxlen, lease, mode, channel"):
        read_options("X", OPTIONS, {"colour": 1})
    with pytest.raises(TypeError, match="X has no option of that name") as caught:
        read_options("X", OPTIONS, {}, ((f"/{SECRET}", ""),))
    assert SECRET not in str(caught.value)
    with pytest.raises(TypeError, match="lease twice"):
        read_options("X", OPTIONS, {"lease": 1}, (("lease", "1"),))
    with pytest.raises(ValueError, match="lease is in the URL 2 times"):
        read_options("X", OPTIONS, {}, (("lease", "1"), ("lease", "2")))


def test_a_secret_option_is_never_repeated() -> None:
    with pytest.raises(ValueError, match=r"^token must be a whole number$"):
        read_options("X", OPTIONS, {"token": SECRET})

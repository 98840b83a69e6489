"""Signatures: what has one was sent by somebody who has the secret, for this key and namespace, and comes once."""

import hashlib
import hmac
import json
from collections.abc import Iterator
from types import SimpleNamespace
from typing import Any

import pytest
from cloudevents.core.bindings import kafka
from cloudevents.core.formats.json import JSONFormat
from hypothesis import given
from hypothesis import strategies as st
from test_wire import CODECS, HOSTILE, KEY, MESSAGES, METAS, TIME, both_ways

from hubsub import DecodeError, Gap, Key, Meta, SignatureError
from hubsub.bridges.relay import signing
from hubsub.bridges.relay.signing import HEAD, WIDTH, Signer, _Numbers
from hubsub.bridges.relay.wire import BEAT, GAP, MESSAGE, Notice, Packed, Wire, time_text

SECRET = "s3cret"
NOW = 1_709_209_800


@pytest.fixture(autouse=True)
def clock(monkeypatch: pytest.MonkeyPatch) -> Iterator[list[float]]:
    """The time that signers see, to be set."""
    now = [float(NOW)]
    monkeypatch.setattr(signing, "time", SimpleNamespace(time=lambda: now[0]))
    return now


def wires(headers: bool, codec: str = "json", **options: Any) -> tuple[Wire, Wire]:
    """One that sends, and one that receives with other options."""
    sends = Wire(codec, "here", headers=headers, secret=SECRET, namespace="hubsub")
    return sends, Wire(codec, "there", **{"headers": headers, "secret": SECRET, "namespace": "hubsub", **options})


def each_form(wire: Wire, message: Any = 1) -> list[Packed]:
    meta = Meta("a-1", "/shop", NOW, {"trace": "7", "ce_subject": "tea", "x y,ü": ""}, 2, correlation="c")
    return [wire.pack_plain(KEY, message, "1", TIME), wire.pack(MESSAGE, KEY, message, meta)]


# There and back


@pytest.mark.parametrize("codec", CODECS)
@pytest.mark.parametrize("understands_headers", [True, False])
@both_ways
@given(data=st.data())
def test_any_message_with_any_metadata_comes_back_signed(
    codec: str, understands_headers: bool, headers: bool, data: st.DataObject
) -> None:
    sends, receives = wires(headers, codec)
    receives.headers = understands_headers
    message, meta = data.draw(MESSAGES[codec]), data.draw(METAS)
    packed = sends.pack(MESSAGE, KEY, message, meta)
    assert receives.unpack(KEY, *packed) == (MESSAGE, message, meta)
    assert sends.is_own(*packed) is (meta.source == "here")
    packed = sends.pack_plain(KEY, message, "a-1", TIME)
    assert receives.unpack(KEY, *packed).message == message
    assert sends.is_own(*packed)
    assert not receives.is_own(*packed)


@both_ways
def test_what_bridges_tell_each_other_is_signed_too(headers: bool) -> None:
    sends, receives = wires(headers)
    gap = Gap("outbox full", 3, 1.25, 2.5, (Key("a"),))
    for kind, message in ((GAP, Notice(gap, (Key("a", "*"),))), (BEAT, "7")):
        packed = sends.pack(kind, Key("Hub", "gap"), message, Meta("1"))
        assert receives.unpack(Key("Hub", "gap"), *packed)[:2] == (kind, message)
        unsigned = Wire("json", "here", headers=headers).pack(kind, Key("Hub", "gap"), message, Meta("1"))
        with pytest.raises(SignatureError):
            receives.unpack(Key("Hub", "gap"), *unsigned)


@both_ways
def test_a_bridge_without_a_secret_understands_what_is_signed_and_sees_no_signature(headers: bool) -> None:
    sends, _ = wires(headers)
    bare = Wire("json", "there", headers=headers)
    for packed in each_form(sends):
        received = bare.unpack(KEY, *packed)
        assert received.message == 1
        assert received.meta is not None
        assert not [name for name in received.meta.headers if "sign" in name]
    # Somebody else's attribute of that name is left alone.
    event = {"specversion": "1.0", "id": "1", "source": "s", "type": "t", "signature": "J. Hancock", "data": 1}
    meta = bare.unpack(KEY, json.dumps(event).encode(), {}).meta
    assert meta is not None
    assert meta.headers["ce_signature"] == "J. Hancock"
    assert sends.unpack(KEY, *sends.pack(MESSAGE, KEY, 1, meta)).meta == meta


@both_ways
def test_the_official_package_reads_what_is_signed(headers: bool) -> None:
    for payload, beside in each_form(wires(headers)[0], {"item": "tea"}):
        if headers:
            binary = {name: value.encode() for name, value in beside.items()}
            event = kafka.from_kafka_event(kafka.KafkaMessage(binary, None, payload))
        else:
            event = JSONFormat().read(None, payload)
        assert event.get_data() == {"item": "tea"}
        assert len(event.get_extension("signature")) == WIDTH


# What is signed


def measured(*texts: str) -> bytes:
    return "".join(f"{len(text)}:{text}" for text in texts).encode("utf-8", "surrogatepass")


@both_ways
@given(
    key=st.lists(st.text(st.characters(exclude_categories=())), min_size=1).map(lambda parts: Key(*parts)),
    meta=METAS,
    message=MESSAGES["json"],
)
def test_a_signature_is_an_hmac_of_what_the_page_says(headers: bool, key: Key[Any], meta: Meta, message: Any) -> None:
    wire = Wire("json", "here", headers=headers, secret=SECRET, namespace="näme")
    for payload, beside in (wire.pack(MESSAGE, key, message, meta), wire.pack_plain(key, message, "1", TIME)):
        signature = beside["ce_signature"] if headers else json.loads(payload)["signature"]
        signed = b"hubsub 1" + measured("näme") + b"%d;" % len(key) + measured(*key) + signature[:HEAD].encode()
        if headers:
            plain = ["ce_specversion", "ce_source", "ce_type", "content-type", "ce_id", "ce_time"]
            attributes = sorted(beside.keys() - {*plain, "ce_signature"} - {n for n in beside if n[:3] != "ce_"})
            others = sorted(name for name in beside if name[:3] != "ce_" and name != "content-type")
            signed += b"h" + b"".join(measured(beside[name]) if name in beside else b"-" for name in plain)
            for names in (attributes, others):
                signed += b"%d;" % len(names) + b"".join(measured(name, beside[name]) for name in names)
            signed += b"=" + payload
        else:
            before = f'{{"signature":"{signature}",'.encode()
            assert payload.startswith(before)
            signed += b"e" + payload[len(before) :]
        assert signature[HEAD:] == hmac.digest(SECRET.encode(), signed, hashlib.sha256).hex()[:32]


@pytest.mark.parametrize("length", [1, 63, 64, 65, 1000])
def test_secrets_of_any_length_are_used_whole(length: int) -> None:
    secret = bytes(range(1, 256)) * 4
    wire = Wire("json", "here", secret=secret[:length])
    packed = wire.pack_plain(KEY, 1, "1", TIME)
    assert Wire("json", "there", secret=[secret[:length]]).unpack(KEY, *packed).message == 1
    with pytest.raises(SignatureError):
        Wire("json", "there", secret=secret[: length - 1] + b"\0").unpack(KEY, *packed)


@both_ways
@given(data=st.data())
def test_whatever_is_changed_makes_it_refused(headers: bool, data: st.DataObject) -> None:
    sends, receives = wires(headers)
    payload, beside = data.draw(st.sampled_from(each_form(sends, {"item": "tea"})))
    if not headers or data.draw(st.booleans()):
        at, bit = data.draw(st.integers(0, len(payload) - 1)), data.draw(st.integers(0, 7))
        changed = bytearray(payload)
        changed[at] ^= 1 << bit
        payload = bytes(changed)
    else:
        name = data.draw(st.sampled_from(sorted(beside)))
        value = data.draw(st.text().filter(lambda text: text != beside[name]) | st.none())
        beside = {each: it for each, it in beside.items() if each != name}
        if value is not None:
            beside[name] = value
    with pytest.raises(SignatureError) as caught:
        receives.unpack(KEY, payload, beside)
    assert caught.value.meta is None
    assert caught.value.payload == payload


@pytest.mark.parametrize(
    "added", ["ce_replyto", "ce_correlation", "ce_hops", "ce_x", "ce_headers", "ce_signedheaders", "ce_time"]
)
def test_no_attribute_can_be_added(added: str) -> None:
    sends, receives = wires(True)
    payload, beside = sends.pack(MESSAGE, KEY, 1, Meta("1", hops=1))
    with pytest.raises(SignatureError):
        receives.unpack(KEY, payload, {**beside, added: "2"})
    assert receives.unpack(KEY, payload, beside).message == 1


def test_a_header_that_is_not_signed_is_left_out() -> None:
    # A broker may add some of its own, and a dead letter that is put back has the reason beside it.
    sends, receives = wires(True)
    for payload, beside in each_form(sends):
        expected = receives.unpack(KEY, payload, beside, live=False)
        added = {"reason": "it failed", "x-death": "1", **beside}
        assert receives.unpack(KEY, payload, added, live=False) == expected
    sends, receives = wires(False)
    for payload, beside in each_form(sends):
        assert receives.unpack(KEY, payload, {"reason": "it failed"}).meta == sends.unpack(KEY, payload, beside).meta


@both_ways
def test_a_message_cannot_be_moved_to_another_key_namespace_or_secret(headers: bool) -> None:
    sends, receives = wires(headers)
    for packed in each_form(sends):
        for key in (Key("order"), Key("order", "new", ""), Key("ordern", "ew"), Key("order/new"), Key("new", "order")):
            with pytest.raises(SignatureError, match="its signature is wrong"):
                receives.unpack(key, *packed)
        for options in ({"namespace": ""}, {"namespace": "hubsu"}, {"secret": "S3cret"}, {"prefix": ["order"]}):
            with pytest.raises(SignatureError, match="its signature is wrong"):
                wires(headers, **options)[1].unpack(KEY, *packed)


@both_ways
def test_the_prefix_of_a_bridge_is_not_signed(headers: bool) -> None:
    sends = Wire("json", "here", headers=headers, secret=SECRET, prefix=("a",))
    receives = Wire("json", "here", headers=headers, secret=SECRET, prefix=("b", "c"))
    assert receives.unpack(Key("b", "c", "x"), *sends.pack_plain(Key("a", "x"), 1, "1", TIME)).message == 1
    # The hub's own keys have none.
    reply = Key("Hub", "reply", "x")
    assert receives.unpack(reply, *sends.pack(MESSAGE, reply, 1, Meta("1"))).message == 1


@pytest.mark.parametrize("shape", HOSTILE)
def test_what_is_not_signed_is_refused_whatever_it_is(shape: str) -> None:
    with pytest.raises(DecodeError):
        Wire("json", "here", secret=SECRET).unpack(KEY, *HOSTILE[shape])


@pytest.mark.parametrize("signature", ["", "x", "0" * WIDTH, "ü" * WIDTH, "\ud800" * WIDTH, "0" * 1_000_000])
def test_what_looks_like_a_signature_is_none(signature: str) -> None:
    sends, receives = wires(True)
    for payload, beside in each_form(sends):
        with pytest.raises(SignatureError):
            receives.unpack(KEY, payload, {**beside, "ce_signature": signature})
    sends, receives = wires(False)
    payload, _ = sends.pack_plain(KEY, 1, "1", TIME)
    begin = len(b'{"signature":"')
    forged = payload[:begin] + signature.encode("utf-8", "surrogatepass") + payload[begin + WIDTH :]
    with pytest.raises(SignatureError):
        receives.unpack(KEY, forged, {})
    with pytest.raises(SignatureError, match="it is not signed"):
        receives.unpack(KEY, b"{" + payload[begin + WIDTH + 2 :], {})


# Rotation


@both_ways
def test_of_several_secrets_the_first_signs_and_all_are_accepted(headers: bool) -> None:
    new = Wire("json", "here", headers=headers, secret=["new", b"old"])
    old = Wire("json", "here", headers=headers, secret="old")
    for packed in each_form(old):
        assert new.unpack(KEY, *packed).message == 1
    for packed in each_form(new):
        with pytest.raises(SignatureError):
            old.unpack(KEY, *packed)
        assert Wire("json", "here", headers=headers, secret=("other", "new")).unpack(KEY, *packed).message == 1


@pytest.mark.parametrize("secret", ["", b"", [], ["a", ""], [None], 7, [b"a", 7]])
def test_what_is_no_secret_is_told(secret: Any) -> None:
    with pytest.raises((ValueError, TypeError)):
        Wire("json", "here", secret=secret)


def test_without_envelopes_nothing_can_be_signed() -> None:
    with pytest.raises(ValueError, match="envelope=False"):
        Wire("json", "here", envelope=False, secret=SECRET)


@pytest.mark.parametrize("window", [0, -1, float("nan")])
def test_a_window_is_some_seconds(window: float) -> None:
    with pytest.raises(ValueError, match="window"):
        Wire("json", "here", secret=SECRET, window=window)


# Replays


@pytest.mark.parametrize("window", [300, 10.5])
@both_ways
def test_what_was_signed_outside_the_window_is_refused_unless_it_comes_from_a_log(
    headers: bool, window: float, clock: list[float]
) -> None:
    sends, receives = wires(headers, window=window)
    for age in (-window - 1, -window + 1, 0, window - 1, window + 1):
        clock[0] = NOW
        packed = sends.pack_plain(KEY, 1, "1", TIME)
        clock[0] = NOW + age
        if abs(age) > window:
            with pytest.raises(SignatureError, match=r"it was signed .* beyond the window of .* s; is a clock wrong"):
                receives.unpack(KEY, *packed)
        else:
            assert receives.unpack(KEY, *packed).message == 1
        assert receives.unpack(KEY, *packed, live=False).message == 1


@both_ways
def test_the_time_of_the_message_may_be_long_ago(headers: bool) -> None:
    sends, receives = wires(headers)
    meta = Meta("1", "there", NOW - 1e6, hops=2)
    assert receives.unpack(KEY, *sends.pack(MESSAGE, KEY, 1, meta)).meta == meta


@both_ways
def test_what_has_come_is_refused_when_it_comes_again_unless_from_a_log(headers: bool) -> None:
    sends, receives = wires(headers)
    for packed in each_form(sends):
        receives.unpack(KEY, *packed)
        for _ in range(2):
            with pytest.raises(SignatureError, match="it has come before") as caught:
                receives.unpack(KEY, *packed)
            assert caught.value.is_replay
        assert receives.unpack(KEY, *packed, live=False).message == 1


@both_ways
def test_an_empty_message_comes_once(headers: bool) -> None:
    sends, receives = wires(headers, "bytes")
    packed = sends.pack_plain(KEY, b"", "1", TIME)
    assert receives.unpack(KEY, *packed).message == b""
    with pytest.raises(SignatureError, match="it has come before"):
        receives.unpack(KEY, *packed)


def test_however_many_come_none_can_come_again() -> None:
    sends, receives = wires(False)
    first = sends.pack_plain(KEY, 0, "1", TIME)
    receives.unpack(KEY, *first)
    for number in range(5000):
        packed = sends.pack_plain(KEY, number, "1", TIME)
        if number % 2:  # the others are for somebody else
            receives.unpack(KEY, *packed)
    with pytest.raises(SignatureError, match="it has come before"):
        receives.unpack(KEY, *first)
    ((_, numbers),) = receives._signer._heard.items()  # type: ignore[union-attr]
    assert len(numbers._missing) <= 2 * numbers.MOST


def test_what_is_overtaken_still_comes() -> None:
    sends, receives = wires(False)
    packed = [sends.pack_plain(KEY, number, "1", TIME) for number in range(100)]
    late = packed[:50]
    for each in (*packed[50:], *late[::2], *reversed(late[1::2])):
        receives.unpack(KEY, *each)
    for each in packed:
        with pytest.raises(SignatureError, match="it has come before"):
            receives.unpack(KEY, *each)


@given(st.lists(st.integers(1, 60), max_size=200))
def test_numbers_are_new_once(given: list[int]) -> None:
    numbers = _Numbers()
    seen = set()
    for number in given:
        assert numbers.add(number) is (number not in seen)
        seen.add(number)
        assert numbers._missing == sorted(numbers._missing)


def test_a_signer_that_is_made_anew_counts_for_itself() -> None:
    sends, receives = wires(False)
    before = sends.pack_plain(KEY, 1, "1", TIME)
    receives.unpack(KEY, *before)
    sends.source = "child"  # of a fork
    after = sends.pack_plain(KEY, 1, "1", TIME)
    assert json.loads(before[0])["signature"][:16] != json.loads(after[0])["signature"][:16]
    receives.unpack(KEY, *after)


def test_signers_are_remembered_as_long_as_it_matters_and_no_more_than_so_many(clock: list[float]) -> None:
    receives = Wire("json", "there", secret=SECRET)
    signer = receives._signer
    assert signer is not None
    signer.MOST_SIGNERS = 20
    for number in range(100):
        clock[0] += 1
        packed = Wire("json", "here", secret=SECRET).pack_plain(KEY, number, "1", TIME)
        receives.unpack(KEY, *packed)
        assert len(signer._heard) <= 20
        with pytest.raises(SignatureError):
            receives.unpack(KEY, *packed)
    clock[0] += 1000
    receives.unpack(KEY, *Wire("json", "here", secret=SECRET).pack_plain(KEY, 1, "1", TIME))
    signer.MOST_SIGNERS = 1
    receives.unpack(KEY, *Wire("json", "here", secret=SECRET).pack_plain(KEY, 1, "1", TIME))
    assert len(signer._heard) <= 2


@both_ways
def test_what_waited_long_or_is_sent_again_can_be_signed_anew(headers: bool, clock: list[float]) -> None:
    sends, receives = wires(headers)
    for packed in each_form(sends):
        expected = receives.unpack(KEY, *packed, live=False)
        clock[0] += 10_000
        for again in (sends.renewed(KEY, *packed), sends.renewed(KEY, *sends.renewed(KEY, *packed))):
            assert len(again[0]) == len(packed[0])
            assert again[1].keys() == packed[1].keys()
            assert receives.unpack(KEY, *again) == expected
            assert sends.size(*again) == sends.size(*packed)


@both_ways
def test_without_a_secret_there_is_nothing_to_sign_anew(headers: bool) -> None:
    wire = Wire("json", "here", headers=headers)
    packed = wire.pack_plain(KEY, 1, "1", time_text(NOW))
    assert wire.renewed(KEY, *packed) == packed


def test_a_signer_shows_no_secret() -> None:
    signer = Signer("hunter2", "hubsub", (), 300)
    assert "hunter2" not in f"{signer!r}{vars(signer)}{Wire('json', 'here', secret='hunter2')!r}"

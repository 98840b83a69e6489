"""What the reason codes of MQTT mean to a bridge: a refusal, or a broker that accepts nothing for now."""

from __future__ import annotations

from typing import Any

from ...errors import BridgeError, BrokerBusy

# By the reason code, which means the same in every packet.
REMEDIES = {
    0x84: "it speaks another version of MQTT; the bridge needs one that speaks MQTT 5",
    0x85: "it allows other client ids only: give one with client_id=",
    0x86: "correct user and password in the URL",
    0x87: "correct user and password in the URL, or allow it to read and write the namespace in the broker's ACL",
    0x8E: "another client has connected with the same client id; give each bridge a name= or client_id= of its own",
    0x90: "the broker does not allow such a topic",
    0x95: "raise the broker's limit of a packet",
    0x9A: "it has no retained messages: leave out retain=",
    0x9B: "choose a lower qos=",
    0x9E: "it has no shared subscriptions: leave out group=",
    0xA2: "it has no wildcards: subscribe to exact keys",
}
"""What to do about a refusal."""
BUSY = (0x88, 0x89, 0x97, 0x9F)
"""Not now, and perhaps later: unavailable, busy, a quota is used up, too many connections."""
OLD = "the broker speaks MQTT 3.1.1 only; the bridge needs one that speaks MQTT 5, as mosquitto does from 1.6 on"


def refusal(what: str, packet: Any, code: Any = None) -> BridgeError:
    """Return the error for a packet with a reason code of 0x80 or more: what was refused, why, and the remedy."""
    code = packet.reason_code if code is None else code
    said = getattr(packet, "reason_str", None)
    # As in <PubAckReasonCode.NOT_AUTHORIZED: 135>.
    name = repr(code).partition(".")[2].partition(":")[0]
    why = name.lower().replace("_", " ") + (f" ({said})" if said else "")
    remedy = REMEDIES.get(int(code))
    kind = BrokerBusy if int(code) in BUSY else BridgeError
    return kind(f"the MQTT broker {what}: {why}" + (f"; {remedy}" if remedy else ""))

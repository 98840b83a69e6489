"""Write the table of docs/bridges/index.md from what each adapter says of its broker; with `--check` only compare."""

from __future__ import annotations

import pathlib
import sys

ROOT = pathlib.Path(__file__).resolve().parent.parent
sys.path.insert(0, str(ROOT))

from hubsub.bridges.adapter import Adapter, Link  # noqa: E402
from hubsub.bridges.schemes import adapter_for  # noqa: E402
from hubsub.key import Key  # noqa: E402

PAGE = ROOT / "docs" / "bridges" / "index.md"
BEGIN, END = "<!-- features -->\n", "<!-- /features -->\n"

BROKERS = {
    "[SQLite](sqlite.md)": "sqlite:///tmp/features.db",
    "[Redis Pub/Sub](redis.md)": "redis://localhost",
    "[Redis Cluster](redis-cluster.md)": "redis+cluster://localhost",
    "[Redis Streams](redis-stream.md)": "redis-stream://localhost",
    "[Postgres log](postgres-log.md)": "postgres-log://localhost/x",
    "[Postgres NOTIFY](postgres.md)": "postgres://localhost/x",
    "[Kafka](kafka.md)": "kafka://localhost:9092",
    "[RabbitMQ](rabbitmq.md)": "amqp://localhost",
    "[NATS](nats.md)": "nats://localhost",
    "[JetStream](jetstream.md)": "jetstream://localhost",
    "[WebSocket](../web/python.md)": "ws://localhost/ws",
    "[MQTT](mqtt.md)": "mqtt://localhost",
    "memory": "memory://features",
}
ORDER = {"all": "all of a sender", "key": "of each key", "none": "none"}
CONFIRMS = {"none": "it was sent", "received": "the broker has it", "stored": "it is stored"}


def mark(is_so: bool) -> str:
    return "yes" if is_so else "–"


def durable(adapter: Adapter) -> str:
    named = adapter.features_for(Link(sender="", namespace="x", name="x", incoming=(Key("x"),)))
    return "with `name=`" if named.durable and not adapter.features.durable else mark(adapter.features.durable)


def size(number: int | None) -> str:
    if number is None:
        return "no limit of its own"
    return f"{number // 2**20} MiB" if number >= 2**20 else f"{number:,} bytes".replace(",", " ")


ROWS = {
    "Keeps the order": lambda each: ORDER[each.order],
    "`publish_confirmed` returns when": lambda each: CONFIRMS[each.confirms],
    "Groups: `group=`": lambda each: mark(each.groups),
    "Named positions: `name=`": lambda each: mark(each.names),
    "Earlier messages: `start=`": lambda each: mark(each.replay),
    "`history=`, `bridge.history`": lambda each: mark(each.history),
    "Dead letters: list, send back": lambda each: mark(each.dead_letters),
    "Delayed messages: `due=`": lambda each: mark(each.delays),
    "Matches patterns itself": lambda each: mark(each.patterns),
    "Largest message": lambda each: size(each.max_payload),
}


def table() -> str:
    adapters = {name: adapter_for(url) for name, url in BROKERS.items()}
    lines = [" | ".join(["| ", *adapters]) + " |", "|---" * (len(adapters) + 1) + "|"]
    away = "Delivers confirmed messages to readers that were away"
    lines.append("| " + " | ".join([away, *map(durable, adapters.values())]) + " |")
    short = "A short interruption is no gap"
    resumed = [mark(True) if each.features.resumes else durable(each) for each in adapters.values()]
    lines.append("| " + " | ".join([short, *resumed]) + " |")
    for row, of in ROWS.items():
        lines.append("| " + " | ".join([row, *(of(each.features) for each in adapters.values())]) + " |")
    return "\n".join(lines) + "\n"


def main() -> None:
    text = PAGE.read_text(encoding="utf-8")
    before, _, rest = text.partition(BEGIN)
    _, _, after = rest.partition(END)
    written = f"{before}{BEGIN}\n{table()}\n{END}{after}"
    if "--check" not in sys.argv[1:]:
        PAGE.write_text(written, encoding="utf-8")
    elif written != text:
        sys.exit(f"out of date, run `python tools/features.py`: {PAGE.name}")


if __name__ == "__main__":
    main()

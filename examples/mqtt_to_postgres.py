"""Sensors by MQTT into a log in Postgres: a reading is acknowledged to one when it is stored in the other."""

import asyncio
import os
import sys

import hubsub

MQTT = os.environ.get("MQTT_URL", "mqtt://localhost")
POSTGRES = os.environ.get("DATABASE_URL", "postgres://localhost/test").replace("postgres://", "postgres-log://")
SENSOR = hubsub.Key("sensor", "*")


async def carry() -> None:
    """What the gateway runs, a process of its own: from one broker to the other, and nothing else."""
    async with (
        hubsub.Hub() as hub,
        hubsub.Bridge(hub, POSTGRES, outgoing=SENSOR),
        hubsub.Bridge(hub, MQTT, incoming=SENSOR, namespace="", name="gateway") as bridge,
    ):
        await bridge.ready()
        print("ready", flush=True)
        await asyncio.Event().wait()


async def start_gateway() -> asyncio.subprocess.Process:
    gateway = await asyncio.create_subprocess_exec(sys.executable, __file__, "gateway", stdout=asyncio.subprocess.PIPE)
    assert gateway.stdout is not None
    await gateway.stdout.readline()
    return gateway


async def main() -> None:
    readings: set[int] = set()
    all_there = asyncio.Event()

    def note(key: hubsub.Key, reading: dict[str, int]) -> None:
        readings.add(reading["number"])
        if len(readings) == 300:
            all_there.set()

    gateway = await start_gateway()
    # A sensor knows nothing of hubs: what it sends is plain JSON.
    sensor = hubsub.Hub()
    async with sensor, hubsub.Bridge(sensor, MQTT, outgoing=SENSOR, namespace="", envelope=False):
        for number in range(300):
            await sensor.publish_confirmed(("sensor", "kitchen"), {"number": number, "celsius": 21})
            if number == 150:
                gateway.kill()  # in the middle of it, by SIGKILL
                await gateway.wait()
    print("published 300 readings, and killed the gateway at the half")

    gateway = await start_gateway()
    reader = hubsub.Hub()
    async with reader, hubsub.Bridge(reader, POSTGRES, incoming=SENSOR, start="earliest"):
        reader.add_listener(SENSOR, note)
        await all_there.wait()
    print("in Postgres:", len(readings), "of them")
    gateway.terminate()
    await gateway.wait()


asyncio.run(carry() if "gateway" in sys.argv else main())

# Output:
# published 300 readings, and killed the gateway at the half
# in Postgres: 300 of them

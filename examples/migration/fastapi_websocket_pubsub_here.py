"""The same with hubsub."""

import asyncio

import httpx2
import uvicorn
from fastapi import FastAPI
from starlette.routing import WebSocketRoute

import hubsub
from hubsub.web import endpoint, lifespan, listen

hub = hubsub.Hub()
# For several processes: lifespan(hub, Bridge(hub, "redis://localhost:6379", both=["guns"]))
app = FastAPI(lifespan=lifespan(hub), routes=[WebSocketRoute("/pubsub", endpoint(hub, outgoing=["guns"]))])


@app.post("/trigger")
async def trigger():
    hub.publish("guns", {"text": "hello"})


async def client(url):
    async with hubsub.connect(url, incoming=["guns"]) as hub:
        with hub.subscribe("guns") as guns:
            await hub.bridges[0].synced()
            ready.set()
            key, message = await guns.consume()
            print(key[0], message)


async def main():
    with listen() as listening:
        address = f"127.0.0.1:{listening.getsockname()[1]}"
        server = uvicorn.Server(uvicorn.Config(app, log_level="warning"))
        serving = asyncio.create_task(server.serve(sockets=[listening]))
        while not server.started:
            await asyncio.sleep(0.01)

        reading = asyncio.create_task(client(f"ws://{address}/pubsub"))
        await ready.wait()
        async with httpx2.AsyncClient() as http:
            await http.post(f"http://{address}/trigger")
        await reading

        server.should_exit = True
        await serving


ready = asyncio.Event()
asyncio.run(main())

# Output:
# guns {'text': 'hello'}

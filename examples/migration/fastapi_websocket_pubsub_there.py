"""With fastapi_websocket_pubsub: a server that is triggered by a request, and a client in another program."""

import asyncio
import socket

import httpx2
import uvicorn
from fastapi import FastAPI
from fastapi_websocket_pubsub import PubSubClient, PubSubEndpoint

app = FastAPI()
pubsub = PubSubEndpoint()  # PubSubEndpoint(broadcaster="redis://localhost:6379") for several processes
pubsub.register_route(app, path="/pubsub")


@app.post("/trigger")
async def trigger():
    await pubsub.publish(["guns"], {"text": "hello"})


async def client(url):
    read = asyncio.Event()

    async def on_guns(data, topic):
        print(topic, data)
        read.set()

    async with PubSubClient() as client:
        client.subscribe("guns", on_guns)
        client.start_client(url)
        await client.wait_until_ready()
        ready.set()
        await read.wait()


async def main():
    with socket.socket() as listening:
        listening.bind(("127.0.0.1", 0))
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

"""A POST that reaches WebSockets: FastAPI, and clients that speak no protocol, only one payload a frame.

`python examples/push_from_http.py --serve` serves at http://127.0.0.1:8000; then `websocat ws://127.0.0.1:8000/orders/41`
and `curl -X POST localhost:8000/orders/41/shipped`. Without it, a client prints what two requests push to it. Needs
`fastapi`, `uvicorn`, `httpx2` and `websockets`.
"""

import asyncio
import json
import sys

import httpx2
import uvicorn
import websockets
from fastapi import FastAPI, WebSocket

from hubsub import Hub
from hubsub.web import lifespan, listen, plain

hub = Hub()
app = FastAPI(lifespan=lifespan(hub))


@app.post("/orders/{number}/{status}")
async def change(number: str, status: str) -> dict[str, int]:
    return {"pushed to": hub.publish(("order", number, status), {"order": number, "status": status})}


@app.websocket("/orders/{number}")
async def follow(websocket: WebSocket) -> None:
    await plain(websocket, hub, send=("order", "{number}", "*"), codec="json")


async def main() -> None:
    with listen() as listening:
        server = uvicorn.Server(uvicorn.Config(app, log_level="warning"))
        serving = asyncio.create_task(server.serve(sockets=[listening]))
        while not server.started:
            await asyncio.sleep(0.01)
        address = f"127.0.0.1:{listening.getsockname()[1]}"

        async with websockets.connect(f"ws://{address}/orders/41") as client, httpx2.AsyncClient() as http:
            while not hub.has_subscribers(("order", "41", "packed")):
                await asyncio.sleep(0.01)
            for number, status in (("41", "packed"), ("42", "packed"), ("41", "shipped")):
                answer = await http.post(f"http://{address}/orders/{number}/{status}")
                print(f"POST for {number}: {answer.json()}")
            for _ in range(2):
                print("the client prints:", json.loads(await client.recv()))

        server.should_exit = True
        await serving


if __name__ == "__main__":
    if "--serve" in sys.argv[1:]:
        uvicorn.run(app, port=8000)
    else:
        asyncio.run(main())

# Output:
# POST for 41: {'pushed to': 1}
# POST for 42: {'pushed to': 0}
# POST for 41: {'pushed to': 1}
# the client prints: {'order': '41', 'status': 'packed'}
# the client prints: {'order': '41', 'status': 'shipped'}

"""aiohttp: the hub opens and closes with the application; requests publish, a WebSocket gets what is published."""

import asyncio
from collections.abc import AsyncIterator

from aiohttp import ClientSession, web

import hubsub

hub = hubsub.Hub()
HUB = web.AppKey("HUB", hubsub.Hub)


async def run_hub(app: web.Application) -> AsyncIterator[None]:
    async with hub:
        yield


async def place(request: web.Request) -> web.Response:
    number, dish = request.match_info["number"], request.query["dish"]
    return web.json_response({"listeners": request.app[HUB].publish(("order", number, "placed"), dish)})


async def follow(request: web.Request) -> web.WebSocketResponse:
    socket = web.WebSocketResponse(heartbeat=20)
    await socket.prepare(request)

    async def send(orders: hubsub.Subscription[str]) -> None:
        async for key, dish in orders:
            await socket.send_json({"order": key[1], "dish": dish})

    # A reader that falls a thousand messages behind loses the oldest, and slows nobody else.
    with request.app[HUB].subscribe(("order", "*"), maxsize=1000, overflow=hubsub.Overflow.DROP_OLDEST) as orders:
        sending = asyncio.create_task(send(orders))
        async for _ in socket:
            pass  # reading finds out when the page is gone
        sending.cancel()
    return socket


def make_app() -> web.Application:
    app = web.Application()
    app[HUB] = hub
    app.cleanup_ctx.append(run_hub)
    app.add_routes([web.post("/orders/{number}", place), web.get("/orders", follow)])
    return app


async def main() -> None:
    runner = web.AppRunner(make_app())
    await runner.setup()
    site = web.TCPSite(runner, "127.0.0.1", 0)
    await site.start()
    host, port = runner.addresses[0][:2]
    async with ClientSession(f"http://{host}:{port}") as client, client.ws_connect("/orders") as page:
        while not hub.has_subscribers(("order", "41", "placed")):
            await asyncio.sleep(0.01)
        async with client.post("/orders/41?dish=soup") as answer:
            print(await answer.json())
        print("the page gets:", await page.receive_json())
    await runner.cleanup()


if __name__ == "__main__":
    asyncio.run(main())

# Output:
# {'listeners': 1}
# the page gets: {'order': '41', 'dish': 'soup'}

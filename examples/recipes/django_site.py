"""Django: async and sync views under ASGI, sync views under WSGI with a hub in a thread; one file instead of a project.

In a project the hub and its listeners stand in a module of their own, and `asgi.py` or `wsgi.py` ends as shown here.
"""

import asyncio
from typing import Any

import django
import httpx2
from django.conf import settings
from django.core.asgi import get_asgi_application
from django.core.wsgi import get_wsgi_application
from django.http import HttpRequest, JsonResponse
from django.urls import path
from starlette.applications import Starlette
from starlette.routing import Mount, WebSocketRoute

import hubsub
from hubsub.web import endpoint, lifespan

settings.configure(ROOT_URLCONF=__name__, SECRET_KEY="secret", ALLOWED_HOSTS=["*"])
django.setup()

hub = hubsub.Hub()
receipts: list[str] = []


@hub.on(("order", "+"))
async def send_receipt(key: hubsub.Key, dish: str) -> None:
    receipts.append(f"order {key[1]}: {dish}")


async def place(request: HttpRequest, number: str) -> JsonResponse:
    return JsonResponse({"listeners": hub.publish(("order", number), request.GET["dish"])})


def place_sync(request: HttpRequest, number: str) -> JsonResponse:
    # Runs in a worker thread. To publish only what is committed, give a function that does it to transaction.on_commit.
    return JsonResponse({"listeners": hub.publish_threadsafe(("order", number), request.GET["dish"]).result()})


urlpatterns = [path("orders/<number>/", place), path("sync/<number>/", place_sync)]


# The end of asgi.py. Django has no lifespan and serves no WebSockets: Starlette does, and passes on everything else.
socket = endpoint(hub, outgoing=[("order", "+")])
application = Starlette(
    routes=[WebSocketRoute("/ws", socket), Mount("/", get_asgi_application())], lifespan=lifespan(hub)
)


# The end of wsgi.py, after `application = get_wsgi_application()`.
def start_thread() -> hubsub.HubThread:
    thread = hubsub.HubThread(hub)
    thread.start()  # the end of the process closes it, and the hub
    return thread


async def under_asgi() -> None:
    transport = httpx2.ASGITransport(application)
    async with (
        application.router.lifespan_context(application),
        httpx2.AsyncClient(transport=transport, base_url="http://shop") as client,
    ):
        print("ASGI, async view:", (await client.get("/orders/41/?dish=soup")).json())
        print("ASGI, sync view:", (await client.get("/sync/42/?dish=tea")).json())


def under_wsgi() -> None:
    wsgi: Any = get_wsgi_application()
    with start_thread(), httpx2.Client(transport=httpx2.WSGITransport(wsgi), base_url="http://shop") as client:
        print("WSGI, sync view:", client.get("/sync/43/?dish=cake").json())


if __name__ == "__main__":
    asyncio.run(under_asgi())
    under_wsgi()
    print("receipts:", receipts)

# Output:
# ASGI, async view: {'listeners': 1}
# ASGI, sync view: {'listeners': 1}
# WSGI, sync view: {'listeners': 1}
# receipts: ['order 41: soup', 'order 42: tea', 'order 43: cake']

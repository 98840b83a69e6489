"""With django-channels: rooms by the path, and a sync function of the site that writes to one."""

import django
from asgiref.sync import async_to_sync, sync_to_async
from django.conf import settings

settings.configure(CHANNEL_LAYERS={"default": {"BACKEND": "channels.layers.InMemoryChannelLayer"}})
django.setup()

from channels.generic.websocket import AsyncJsonWebsocketConsumer
from channels.layers import get_channel_layer
from channels.routing import URLRouter
from django.urls import path
from starlette.applications import Starlette
from starlette.routing import Mount
from starlette.testclient import TestClient


class ChatConsumer(AsyncJsonWebsocketConsumer):
    async def connect(self):
        self.group = f"chat_{self.scope['url_route']['kwargs']['room']}"
        await self.channel_layer.group_add(self.group, self.channel_name)
        await self.accept()

    async def disconnect(self, code):
        await self.channel_layer.group_discard(self.group, self.channel_name)

    async def receive_json(self, content):
        await self.channel_layer.group_send(self.group, {"type": "chat.message", "content": content})

    async def chat_message(self, event):
        await self.send_json(event["content"])


app = URLRouter([path("chat/<room>", ChatConsumer.as_asgi())])


def announce(room, text):
    """Called by a sync view."""
    layer = get_channel_layer()
    async_to_sync(layer.group_send)(f"chat_{room}", {"type": "chat.message", "content": {"text": text}})


app = Starlette(routes=[Mount("/", app)])  # so that one test client fits both

with (
    TestClient(app) as client,
    client.websocket_connect("/chat/lobby") as ann,
    client.websocket_connect("/chat/lobby") as bob,
    client.websocket_connect("/chat/attic") as eve,
):
    ann.send_json({"text": "hello"})
    print("bob reads:", bob.receive_json())
    client.portal.call(sync_to_async(announce), "attic", "tea is ready")
    print("eve reads:", eve.receive_json())

# Output:
# bob reads: {'text': 'hello'}
# eve reads: {'text': 'tea is ready'}

"""Flask: a hub in a thread of its own, used by sync views; async listeners and bridges work as anywhere else.

To serve it: `pip install flask hubsub`, then `flask --app flask_app run`. A server that forks, such as gunicorn, may
import it first: each worker starts a thread of its own with the first request.
"""

import asyncio
from collections.abc import Iterator

from flask import Flask, Response

import hubsub

hub = hubsub.Hub()
hub.retain(("receipt", "+"))
thread = hubsub.HubThread(hub)  # HubThread(hub, Bridge(hub, "redis://localhost", both=[...])) joins several processes
app = Flask(__name__)


@hub.on(("order", "+"))
async def send_receipt(key: hubsub.Key, dish: str) -> None:
    await asyncio.sleep(0.01)  # the mail server takes its time
    hub.publish(("receipt", key[1]), f"one {dish}")


async def price(key: hubsub.Key, message: None) -> float:
    return {"soup": 4.5, "tea": 2.0}[key[1]]


hub.respond(("price", "+"), price)


@app.post("/orders/<number>/<dish>")
def place(number: str, dish: str) -> dict[str, int]:
    return {"listeners": thread.call(hub.publish, ("order", number), dish)}


@app.post("/sure/<number>/<dish>")
def place_surely(number: str, dish: str) -> dict[str, int]:
    return {"finished": thread.call(hub.publish_confirmed, ("order", number), dish, timeout=5)}


@app.get("/prices/<dish>")
def ask(dish: str) -> dict[str, float]:
    return {dish: thread.call(hub.request, ("price", dish))}


@app.get("/receipts")
def receipts() -> Response:
    def stream() -> Iterator[str]:
        with thread.read(("receipt", "+"), history=1) as messages:
            for key, receipt in messages:
                yield f"{key[1]}: {receipt}\n"

    return Response(stream(), mimetype="text/plain")


def main() -> None:
    client = app.test_client()
    print(client.post("/orders/41/soup").json)
    print(client.post("/sure/42/tea").json)
    print(client.get("/prices/soup").json)
    stream = client.get("/receipts").iter_encoded()
    print([next(stream).decode().strip() for _ in range(2)])
    thread.close()  # the end of the program does it, too


if __name__ == "__main__":
    main()

# Output:
# {'listeners': 1}
# {'finished': 1}
# {'soup': 4.5}
# ['41: one soup', '42: one tea']

"""A FastAPI application whose requests store an order and publish it in one transaction: both happen, or neither does.

It needs a database of Postgres, whose URL is in DATABASE_URL. To serve it: `pip install 'hubsub[postgres]' fastapi
uvicorn`, then `uvicorn fastapi_outbox:app`.
"""

import asyncio
import os
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from typing import Annotated, Any

import asyncpg
import httpx2
from fastapi import Depends, FastAPI, HTTPException, Request

import hubsub
from hubsub.bridges.postgres import PostgresLogAdapter

URL = os.environ.get("DATABASE_URL", "postgres://localhost/shop")
hub = hubsub.Hub()
adapter = PostgresLogAdapter(URL.replace("postgres://", "postgres-log://", 1))
# It receives orders here; a worker in another process would have the same line. The requests publish without it.
bridge = hubsub.Bridge(hub, adapter, incoming=("orders", "new"), group="receipts")


@hub.on(("orders", "new"))
async def send_receipt(key: hubsub.Key, order: dict[str, Any]) -> None:
    hub.publish(("receipts", "sent"), f"receipt for order {order['number']}: {order['dish']}")


@asynccontextmanager
async def lifespan(app: FastAPI) -> AsyncIterator[None]:
    async with asyncpg.create_pool(URL) as pool, hub, bridge:
        await pool.execute("create table if not exists orders (number serial primary key, dish text not null)")
        await bridge.ready(10)  # makes the tables of the log, if they are missing
        app.state.pool = pool
        yield


app = FastAPI(lifespan=lifespan)


async def transaction(request: Request) -> AsyncIterator[asyncpg.Connection]:
    async with request.app.state.pool.acquire() as connection, connection.transaction():
        yield connection


# With this scope it ends before the response is sent: who reads "201" knows that the order is stored.
Transaction = Annotated[asyncpg.Connection, Depends(transaction, scope="function")]


@app.post("/orders", status_code=201)
async def place(dish: str, connection: Transaction) -> dict[str, Any]:
    number = await connection.fetchval("insert into orders (dish) values ($1) returning number", dish)
    await adapter.publish_in(connection, ("orders", "new"), {"number": number, "dish": dish})
    if dish == "soup":
        raise HTTPException(409, "the soup is off")  # rolls back the order and the message
    return {"number": number}


async def main() -> None:
    transport = httpx2.ASGITransport(app)
    async with (
        app.router.lifespan_context(app),
        httpx2.AsyncClient(transport=transport, base_url="http://shop") as client,
        hub.subscribe(("receipts", "sent")) as receipts,
    ):
        for dish in ("tea", "soup", "cake"):
            reply = await client.post("/orders", params={"dish": dish})
            print(reply.status_code, dish)
            if reply.is_success:
                _, receipt = await receipts.consume()
                print(receipt)
        print("stored:", [row["dish"] for row in await app.state.pool.fetch("select dish from orders order by number")])


if __name__ == "__main__":
    asyncio.run(main())

# Output:
# 201 tea
# receipt for order 1: tea
# 409 soup
# 201 cake
# receipt for order 3: cake
# stored: ['tea', 'cake']

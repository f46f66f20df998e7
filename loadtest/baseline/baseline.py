"""The same path as a Python team would build it: verify, decrypt, SET NX, publish with a confirm, answer.

`./dev bench speed accept` runs it beside the product, on the same broker and Redis: uvicorn with uvloop and httptools,
two workers, four channels each. It reads AMQP_URL and REDIS_URL.
"""

import base64
import hashlib
import hmac
import itertools
import os
from contextlib import asynccontextmanager

import aio_pika
import orjson
import redis.asyncio as redis
from cryptography.hazmat.primitives.ciphers import Cipher, algorithms, modes
from fastapi import FastAPI, Request, Response

CHANNELS = 4
DEDUP_SECONDS = 600

state = {}


@asynccontextmanager
async def lifespan(_app):
    connection = await aio_pika.connect(os.environ["AMQP_URL"])
    exchanges = []
    for _ in range(CHANNELS):
        channel = await connection.channel(publisher_confirms=True)
        exchanges.append(await channel.get_exchange("openclaw.v1.events", ensure=False))
    state["exchanges"] = itertools.cycle(exchanges)
    # Above the number of connections it is pushed over: redis-py fails at once when its pool is used up.
    state["redis"] = redis.from_url(os.environ["REDIS_URL"], max_connections=512)
    yield
    await state["redis"].aclose()
    await connection.close()


app = FastAPI(lifespan=lifespan)


def decrypt(key: bytes, encrypted: str) -> bytes:
    data = base64.b64decode(encrypted)
    decryptor = Cipher(algorithms.AES(hashlib.sha256(key).digest()), modes.CBC(data[:16])).decryptor()
    plain = decryptor.update(data[16:]) + decryptor.finalize()
    return plain[: -plain[-1]]


@app.post("/webhook/{bot}")
async def webhook(bot: str, request: Request) -> Response:
    raw = await request.body()
    key = f"key-of-{bot}".encode()
    headers = request.headers
    signed = headers["x-lark-request-timestamp"].encode() + headers["x-lark-request-nonce"].encode() + key + raw
    if not hmac.compare_digest(hashlib.sha256(signed).hexdigest(), headers["x-lark-signature"]):
        return Response(status_code=401)
    plain = decrypt(key, orjson.loads(raw)["encrypt"])
    message_id = orjson.loads(plain)["event"]["message"]["message_id"]
    fresh = await state["redis"].set(f"python:{message_id}", 1, nx=True, ex=DEDUP_SECONDS)
    if fresh:
        message = aio_pika.Message(plain, delivery_mode=aio_pika.DeliveryMode.PERSISTENT)
        await next(state["exchanges"]).publish(message, routing_key=bot)
    return Response(b"{}", media_type="application/json")

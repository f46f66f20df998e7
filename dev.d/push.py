"""URL CREDENTIALS SIM [COUNT [TEXT]]: pushes events as Feishu does, and sees each answered once.

URL is the webhook of a bot, CREDENTIALS its credentials.yaml, SIM the `openclaw sim` that plays its Open API. With PUSH_ONLY=1 nobody is expected to answer yet. Events are
encrypted and signed by OpenSSL, so that nothing of the product's own judges the product. One push that is not answered 200, or
one event without exactly one visible answer within a minute, and it ends with 1.
"""

import base64
import hashlib
import json
import os
import re
import secrets
import subprocess
import sys
import time
import urllib.error
import urllib.request

# Feishu gives up after 3 s.
PATIENCE = 3


def credentials(path):
    """The keys of a flat YAML file; `${NAME}` is the environment's."""
    with open(path, encoding="utf-8") as file:
        pairs = re.findall(r'^(\w+): *"?([^"#\n]*?)"? *(?:#.*)?$', file.read(), re.MULTILINE)
    return {key: re.sub(r"\$\{(\w+)\}", lambda name: os.environ[name[1]], value) for key, value in pairs}


def event(bot, message, chat, text):
    now = str(int(time.time() * 1000))
    user = {"open_id": "ou_person", "union_id": "on_person", "user_id": "u7"}
    return {
        "schema": "2.0",
        "header": {
            "event_id": secrets.token_hex(16),
            "event_type": "im.message.receive_v1",
            "create_time": now,
            "token": bot["verification_token"],
            "app_id": bot["app_id"],
            "tenant_key": "tenant",
        },
        "event": {
            "sender": {"sender_id": user, "sender_type": "user", "tenant_key": "tenant"},
            "message": {
                "message_id": message,
                "create_time": now,
                "chat_id": chat,
                "chat_type": "group",
                "message_type": "text",
                "content": json.dumps({"text": text}),
            },
        },
    }


def encrypted(key, plain):
    iv = secrets.token_bytes(16)
    digest = hashlib.sha256(key.encode()).hexdigest()
    cipher = subprocess.run(
        ["openssl", "enc", "-aes-256-cbc", "-K", digest, "-iv", iv.hex()], input=plain, stdout=subprocess.PIPE, check=True
    )
    return json.dumps({"encrypt": base64.b64encode(iv + cipher.stdout).decode()}).encode()


def request(url, body=None, headers=None):
    """(status, body); 0 and why when there is no answer."""
    asked = urllib.request.Request(url, body, {"Content-Type": "application/json", **(headers or {})})
    try:
        with urllib.request.urlopen(asked, timeout=PATIENCE) as answer:
            return answer.status, answer.read()
    except urllib.error.HTTPError as error:
        return error.code, error.read()
    except OSError as error:
        return 0, str(error).encode()


def push(url, bot, body):
    stamp, nonce = str(int(time.time())), secrets.token_hex(8)
    signature = hashlib.sha256((stamp + nonce + bot["encrypt_key"]).encode() + body).hexdigest()
    return request(
        url,
        body,
        {"X-Lark-Request-Timestamp": stamp, "X-Lark-Request-Nonce": nonce, "X-Lark-Signature": signature},
    )


def answers(sim, message):
    status, body = request(f"{sim}/sim/messages?reply_to={message}")
    if status != 200:
        sys.exit(f"the simulated Feishu answers {status} {body!r}")
    return json.loads(body)


def main(url, path, sim, count="1", text="/echo hello"):
    bot = credentials(path)
    chat = "oc_" + secrets.token_hex(8)
    messages = ["om_" + secrets.token_hex(12) for _ in range(int(count))]
    told = json.dumps([{"message_id": message, "chat_id": chat} for message in messages]).encode()
    if request(f"{sim}/sim/messages", told)[0] != 204:
        sys.exit(f"no simulated Feishu at {sim}")
    for message in messages:
        body = encrypted(bot["encrypt_key"], json.dumps(event(bot, message, chat, text)).encode())
        status, answer = push(url, bot, body)
        if status != 200:
            sys.exit(f"a push to {url} is answered with {status} {answer.decode(errors='replace')}")
    if os.environ.get("PUSH_ONLY"):
        return
    deadline = time.monotonic() + 60
    waiting = messages
    while waiting and time.monotonic() < deadline:
        time.sleep(0.05)
        waiting = [message for message in waiting if not answers(sim, message)]
    if waiting:
        sys.exit(f"{len(waiting)} of {count} events of {url} were accepted and not answered")
    if any(len(answers(sim, message)) != 1 for message in messages):
        sys.exit(f"an event of {url} was answered more than once")


if __name__ == "__main__":
    main(*sys.argv[1:])

"""The least that a managed runtime does: asks for invocations, and answers them. `awslambdaric` does more."""
import http.client
import json
import os
import signal
import sys
import threading

sys.path.insert(0, os.path.dirname(os.path.abspath(__file__)))
import handler

API = os.environ["AWS_LAMBDA_RUNTIME_API"]
if os.environ.get("TEST_IGNORES_TERM"):
    signal.signal(signal.SIGTERM, signal.SIG_IGN)


def pieces(event):
    for n in range(event["pieces"]):
        yield b"piece %d\n" % n
    handler.handler({"op": "add"}, None)


def give_up(why):
    print(why, file=sys.stderr, flush=True)
    os._exit(1)


def work():
    connection = http.client.HTTPConnection(API)

    def call(method, path, body=None, headers=None, chunked=False):
        connection.request(method, "/2018-06-01/runtime" + path, body, headers or {}, encode_chunked=chunked)
        reply = connection.getresponse()
        return reply, reply.read()

    if os.environ.get("AWS_LAMBDA_INITIALIZATION_TYPE") == "snap-start":
        reply, text = call("GET", "/restore/next")
        if reply.status != 200:
            give_up(f"restore: {reply.status} {text}")
    while True:
        reply, text = call("GET", "/invocation/next")
        if reply.status != 200:
            give_up(f"next: {reply.status} {text}")
        one, event = reply.headers["Lambda-Runtime-Aws-Request-Id"], json.loads(text)
        try:
            if event.get("op") == "stream":
                headers = {"Lambda-Runtime-Function-Response-Mode": "streaming", "Transfer-Encoding": "chunked"}
                call("POST", f"/invocation/{one}/response", pieces(event), headers, chunked=True)
                continue
            answer = json.dumps(handler.handler(event, None)) + " " * event.get("padding", 0)
        except Exception as error:  # as a runtime does
            body = json.dumps({"errorMessage": str(error), "errorType": type(error).__name__})
            call("POST", f"/invocation/{one}/error", body, {"Lambda-Runtime-Function-Error-Type": type(error).__name__})
        else:
            reply, text = call("POST", f"/invocation/{one}/response", answer)
            if reply.status != 202:
                give_up(f"response: {reply.status} {text}")


# More than one where invocations run in parallel.
for _ in range(1, int(os.environ.get("TEST_WORKERS", "1"))):
    threading.Thread(target=work, daemon=True).start()
work()

"""A server for tools that antiphon runs: `TOOL_SECRET=... python3 tool_server.py [PORT]`, needs nothing but Python
(docs/tools.md). It knows one tool, `lookup_order`, and runs each call once, however often it is sent."""
import hashlib, hmac, json, os, sys, time
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer

SECRET = os.environ["TOOL_SECRET"].encode()
ORDERS = {17: "sent on Friday", 18: "waiting for stock"}
answers = {}  # by Idempotency-Key

def is_ours(signature, body):
    try:
        fields = dict(field.split("=", 1) for field in signature.split(","))
        fresh = abs(time.time() - int(fields["t"])) < 300
        wanted = hmac.new(SECRET, fields["t"].encode() + b"." + body, hashlib.sha256).hexdigest()
        return fresh and hmac.compare_digest(wanted, fields["v1"])
    except (KeyError, ValueError):
        return False

def lookup_order(arguments):
    status = ORDERS.get(arguments.get("number"))
    return (200, {"status": status}) if status else (404, "there is no such order; ask for its number again")

class Handler(BaseHTTPRequestHandler):
    def do_POST(self):
        body = self.rfile.read(int(self.headers["Content-Length"]))
        if not is_ours(self.headers.get("Antiphon-Signature", ""), body):
            return self.answer(401, "the signature is wrong")
        key, call = self.headers["Idempotency-Key"], json.loads(body)
        if key not in answers:
            print("called", call["name"], json.dumps(call["arguments"]), flush=True)
            answers[key] = lookup_order(call["arguments"])
        self.answer(*answers[key])

    def answer(self, status, result):
        text = result if isinstance(result, str) else json.dumps(result)
        self.send_response(status)
        self.send_header("Content-Length", str(len(text.encode())))
        self.end_headers()
        self.wfile.write(text.encode())

    def log_message(self, *_):
        pass

if __name__ == "__main__":
    server = ThreadingHTTPServer(("127.0.0.1", int(sys.argv[1]) if len(sys.argv) > 1 else 9100), Handler)
    print("listening on", server.server_address[1], flush=True)
    server.serve_forever()

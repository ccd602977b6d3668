"""A judge to try the example with: speaks as an OpenAI-compatible server, and follows a rule instead of a model."""

import json
import re
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer

ADDRESS = ("127.0.0.1", 8001)


class Judge(BaseHTTPRequestHandler):
    """Answers `POST /v1/chat/completions`."""

    def do_POST(self) -> None:
        request = json.loads(self.rfile.read(int(self.headers["Content-Length"])))
        message = {"role": "assistant", "content": verdict(request["messages"][-1]["content"])}
        choice = {"index": 0, "message": message, "finish_reason": "stop"}
        reply = {"id": "1", "object": "chat.completion", "created": 0, "model": request["model"], "choices": [choice]}
        body = json.dumps(reply).encode()
        self.send_response(200)
        self.send_header("Content-Type", "application/json")
        self.send_header("Content-Length", str(len(body)))
        self.end_headers()
        self.wfile.write(body)

    def log_message(self, format: str, *args: object) -> None:  # noqa: A002  (the name in the base class)
        """Write no line for each request."""


def verdict(content: str) -> str:
    """Return 10 points for the right sum, fewer the farther off, and 0 for what is not one number."""
    asked = re.search(r"What is (\d+) \+ (\d+) \?\nResponse: (\d+)\n", content)
    if asked is None:
        return "0"
    first, second, given = map(int, asked.groups())
    return str(max(0, 10 - 3 * abs(first + second - given)))


if __name__ == "__main__":
    with ThreadingHTTPServer(ADDRESS, Judge) as server:
        server.serve_forever()

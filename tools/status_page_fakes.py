"""A coordinator that is not there: serves the status page from its sources and whatever statuses a check makes up."""
import base64
import hashlib
import http.server
import json
import pathlib
import threading
import time

PAGE = pathlib.Path(__file__).resolve().parent.parent / "rpc" / "http"


def joined_page() -> str:
    """As rpc/CMakeLists.txt joins it."""
    page = (PAGE / "status_page.html").read_text()
    for kind in ["css", "js"]:
        page = page.replace(f"@status_page_{kind}@", (PAGE / f"status_page.{kind}").read_text())
    return page


def policy(page: str) -> str:
    def digest(tag):
        text = page.split(f"<{tag}>")[1].split(f"</{tag}>")[0]
        return "'sha256-" + base64.b64encode(hashlib.sha256(text.encode()).digest()).decode() + "'"
    return (f"default-src 'none'; script-src {digest('script')}; style-src {digest('style')}; connect-src 'self'; "
            "img-src data:; base-uri 'none'; form-action 'none'; frame-ancestors 'none'")


def stage(index: int, first: int, kv_source: list[int], ranks: int, seconds: float) -> dict:
    groups = {}
    for layer, owner in enumerate(kv_source, first):
        groups.setdefault(owner, []).append(layer)
    return {
        "stage": index, "first_layer": first, "end_layer": first + len(kv_source),
        "kv_bytes_per_token": 256 * len(groups),
        "kv_groups": [{"owner": owner, "readers": [layer for layer in layers if layer != owner]}
                      for owner, layers in sorted(groups.items())],
        "ranks": [{"rank": ranks * index + i, "tp_rank": i, "host": "host", "pid": 100 + i, "busy_seconds": 0.75 * seconds,
                   "waiting_seconds": 0.25 * seconds, "bubble_share": 0.25, "steps": int(seconds), "doing": "computes"}
                  for i in range(ranks)],
    }


def engine(target: str, kv_source: list[int], cuts: list[int], seconds: float, **more) -> dict:
    return {
        "target": target, "model": "made-up", "version": "1.0", "serving": True, "problem": "", "times_lost": 0,
        "streams": 3, "outstanding_tokens": 100, "running": 4, "queued": 5, "used_blocks": 60, "total_blocks": 1200,
        "block_size": 16, "max_context": 2048, "tp": 2, "pp": len(cuts) - 1, "instance": "a", "time": 1e9 + seconds,
        "tokens": {"prompt": 1000, "cached_prompt": 250, "generation": 100 * seconds},
        "stages": [stage(i, a, kv_source[a:b], 2, seconds) for i, (a, b) in enumerate(zip(cuts, cuts[1:]))],
    } | more


def status(engines: list[dict], seconds: float, **more) -> dict:
    return {"coordinator": {"version": "1.0", "time": 1e9 + seconds, "uptime_seconds": seconds, "streams": 6, "waiting": 0,
                            "requests": 70, "failed": 0, "carried": 2, "quarantined": 0, "tokens": 200 * seconds} | more,
            "engines": engines}


class FakeCoordinator:
    """`make(seconds)` is the status of a moment; `key`, if set, the only API key."""

    def __init__(self, make=lambda seconds: status([], seconds), key: str | None = None):
        self.make, self.key, self.broken = make, key, False
        page, begin, fake = joined_page(), time.monotonic(), self

        class Handler(http.server.BaseHTTPRequestHandler):
            def log_message(self, *_):
                pass

            def do_GET(self):
                kind, body, code = "text/html; charset=utf-8", page, 200
                if self.path == "/status":
                    kind, body = "application/json", json.dumps(fake.make(time.monotonic() - begin))
                    if fake.key and self.headers.get("Authorization") != f"Bearer {fake.key}":
                        code, body = 401, "{}"
                    if fake.broken:
                        code, body = 503, "not json"
                self.send_response(code)
                self.send_header("Content-Type", kind)
                self.send_header("Content-Length", str(len(body.encode())))
                self.send_header("Content-Security-Policy", policy(page))
                self.end_headers()
                self.wfile.write(body.encode())

        self._server = http.server.ThreadingHTTPServer(("127.0.0.1", 0), Handler)
        threading.Thread(target=self._server.serve_forever, daemon=True).start()
        self.url = f"http://127.0.0.1:{self._server.server_port}/"

    def __enter__(self):
        return self

    def __exit__(self, *_):
        self._server.shutdown()
        self._server.server_close()

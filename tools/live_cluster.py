"""Two engines of the demo model over two stages each, a coordinator before them, and clients: for a look at them."""
import json
import os
import pathlib
import shutil
import socket
import subprocess
import tempfile
import threading
import time
import urllib.request

ROOT = pathlib.Path(__file__).resolve().parent.parent
MODEL = ROOT / "models" / "demo"
KV_MEMORY = 4 << 20
PATIENCE_S = 120
PROMPT = "The cat sat down and looked at the river. It was a long day, and nobody had come. " * 3


def free_port() -> int:
    with socket.socket() as taken:
        taken.bind(("127.0.0.1", 0))
        return taken.getsockname()[1]


class LiveCluster:
    def __init__(self, program: pathlib.Path):
        self.program = program.resolve()
        self.logs = pathlib.Path(tempfile.mkdtemp(prefix="cluster-"))
        self.engines = [f"127.0.0.1:{free_port()}" for _ in range(2)]
        self.grpc, self.http = (f"127.0.0.1:{free_port()}" for _ in range(2))
        self.url = f"http://{self.http}/"
        self._processes: dict[str, subprocess.Popen] = {}
        for target in self.engines:
            self.start_engine(target)
        self.start_coordinator()

    def __enter__(self):
        return self

    def __exit__(self, error, *_):
        for process in self._processes.values():
            process.kill()  # ranks die with their mpirun
            process.wait()
        if error:
            for log in sorted(self.logs.iterdir()):
                print(f"--- {log.name}\n{log.read_text()[-2000:]}")
        shutil.rmtree(self.logs, ignore_errors=True)

    def _start(self, name: str, command: list[str]) -> None:
        environment = os.environ | {"OMPI_ALLOW_RUN_AS_ROOT": "1", "OMPI_ALLOW_RUN_AS_ROOT_CONFIRM": "1"}
        with open(self.logs / name, "ab") as log:
            self._processes[name] = subprocess.Popen(command, stdin=subprocess.DEVNULL, stdout=log, stderr=log, env=environment)

    def start_engine(self, target: str) -> None:
        old = self._processes.pop(target, None)
        if old:
            old.wait(PATIENCE_S)
        self._start(target, ["mpirun", "-np", "2", "--bind-to", "none", "--oversubscribe", str(self.program), "serve",
                             "--model", str(MODEL), "--pp", "2", "--listen", target, "--threads", "1",
                             "--kv_memory", str(KV_MEMORY)])

    def start_coordinator(self) -> None:
        self._start("coordinator", [str(self.program), "coordinator", "--listen", self.grpc, "--http_listen", self.http,
                                    *(word for target in self.engines for word in ["--engine", target])])

    def kill_coordinator(self) -> None:
        process = self._processes.pop("coordinator")
        process.kill()
        process.wait()

    def status(self) -> dict:
        with urllib.request.urlopen(self.url + "status", timeout=10) as answer:
            return json.load(answer)

    def wait_until_all_serve(self) -> None:
        end = time.monotonic() + PATIENCE_S
        while True:
            try:
                if all(engine["serving"] for engine in self.status()["engines"]):
                    return
            except OSError:
                pass  # it does not listen yet
            if time.monotonic() > end:
                raise TimeoutError(f"not all engines serve after {PATIENCE_S} s")
            time.sleep(0.1)


class Clients:
    """Ask for one completion after the other until they are stopped. `failures` is what went wrong."""

    def __init__(self, url: str, number: int):
        self.url, self.failures, self.done = url, [], 0
        self._stop = threading.Event()
        self._threads = [threading.Thread(target=self._ask, args=(i,)) for i in range(number)]
        for thread in self._threads:
            thread.start()

    def __enter__(self):
        return self

    def __exit__(self, *_):
        self._stop.set()
        for thread in self._threads:
            thread.join()

    def _ask(self, number: int) -> None:
        asked = 0
        while not self._stop.is_set():
            asked += 1
            body = {"model": MODEL.name, "prompt": f"{PROMPT} And then, {number} and {asked},", "ignore_eos": True,
                    "max_tokens": 200 + 40 * (number % 8), "seed": number}
            request = urllib.request.Request(self.url + "v1/completions", json.dumps(body).encode(),
                                             {"Content-Type": "application/json"})
            try:
                with urllib.request.urlopen(request, timeout=PATIENCE_S) as answer:
                    tokens = json.load(answer)["usage"]["completion_tokens"]
                if tokens != body["max_tokens"]:
                    raise ValueError(f"{tokens} tokens of {body['max_tokens']}")
                self.done += 1
            except (OSError, ValueError) as error:
                self.failures.append(str(error))
                self._stop.wait(0.5)

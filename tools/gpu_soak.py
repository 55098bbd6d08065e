"""gpu_check --soak: an engine on the GPU under mixed load for minutes, and whether its memory stays as it is."""
import json
import os
import pathlib
import signal
import socket
import subprocess
import threading
import time
import urllib.request

from gpu_programs import Failed, end_session, run

# What may come and go: graphs of shapes that are met late, the allocator's leftovers.
ALLOWED_MIB = 64
# So little that sequences are preempted now and then.
KV_MEMORY = 16 << 20
# Names, and what `bench serve` is told beside; each starts anew as soon as it is done. Lengths vary, prefixes are
# shared, outputs are drawn or greedy; what is under way when the time is over is broken off.
LOADS = {
    "short": ["--random_input_len", "64", "--random_output_len", "64", "--random_range_ratio", "0.9", "--temperature", "1",
              "--max_concurrency", "48", "--num_prompts", "2000"],
    "long prompts": ["--random_input_len", "900", "--random_output_len", "16", "--random_range_ratio", "0.5",
                     "--max_concurrency", "8", "--num_prompts", "400"],
    "shared prefixes": ["--dataset_name", "prefix_repetition", "--prefix_repetition_prefix_len", "256",
                        "--prefix_repetition_suffix_len", "32", "--prefix_repetition_output_len", "128",
                        "--max_concurrency", "16", "--num_prompts", "500"],
    "bursts": ["--random_input_len", "32", "--random_output_len", "200", "--random_range_ratio", "0.5", "--request_rate", "20",
               "--burstiness", "0.2", "--temperature", "0.7", "--num_prompts", "600"],
}
EMULATED_LOADS = {
    "short": ["--random_input_len", "6", "--random_output_len", "4", "--random_range_ratio", "0.5", "--temperature", "1",
              "--max_concurrency", "2", "--num_prompts", "4"],
    "shared prefixes": ["--dataset_name", "prefix_repetition", "--prefix_repetition_prefix_len", "20",
                        "--prefix_repetition_suffix_len", "3", "--prefix_repetition_output_len", "3", "--max_concurrency", "1",
                        "--num_prompts", "3"],
}


class Engine:
    """`serve` of the demo model on the GPU, with the memory that it takes by itself."""

    def __init__(self, check):
        with socket.socket() as one, socket.socket() as other:  # both at once, so that they differ
            one.bind(("127.0.0.1", 0))
            other.bind(("127.0.0.1", 0))
            self.address, self.metrics = (f"127.0.0.1:{free.getsockname()[1]}" for free in (one, other))
        programs = check.programs
        command = [programs.polystrate, "serve", "--model", programs.source / "models" / "demo", "--device", "cuda",
                   "--listen", self.address, "--metrics_listen", self.metrics, "--kv_memory", KV_MEMORY]
        self.log = check.scratch / "serve.log"
        with open(self.log, "wb") as log:
            self.process = subprocess.Popen([str(word) for word in command], stdin=subprocess.DEVNULL, stdout=log, stderr=log,
                                            env={**os.environ, **programs.environment}, start_new_session=True)

    def last_words(self):
        return " | ".join(self.log.read_text(errors="replace").strip().splitlines()[-6:])

    def wait_until_serving(self, seconds):
        end = time.monotonic() + seconds
        while "SERVING" not in self.log.read_text(errors="replace"):
            if self.process.poll() is not None or time.monotonic() > end:
                raise Failed(f"serve does not come up: {self.last_words()}")
            time.sleep(0.1)

    def counted(self, name):
        """A counter of the engine's metrics, all its labels together."""
        with urllib.request.urlopen(f"http://{self.metrics}/metrics", timeout=10) as answer:
            lines = answer.read().decode().splitlines()
        return sum(float(line.rsplit(" ", 1)[1]) for line in lines if line.split("{")[0].split(" ")[0] == name)

    def pid(self):
        """Of the program itself, below the script that starts it in a package."""
        children = pathlib.Path(f"/proc/{self.process.pid}/task/{self.process.pid}/children").read_text().split()
        return int(children[0]) if children else self.process.pid

    def drain(self, seconds):
        os.kill(self.pid(), signal.SIGTERM)
        try:
            code = self.process.wait(seconds)
        except subprocess.TimeoutExpired:
            raise Failed(f"the engine does not drain: {self.last_words()}") from None
        if code != 0:
            raise Failed(f"the engine ended with exit code {code}: {self.last_words()}")


def resident_mib(pid):
    fields = dict(line.split(":", 1) for line in pathlib.Path(f"/proc/{pid}/status").read_text().splitlines())
    return int(fields["VmRSS"].split()[0]) / 1024


def device_mib():
    """In use on all GPUs together: what processes take is not told apart inside a container."""
    shown = run(["nvidia-smi", "--query-gpu=memory.used", "--format=csv,noheader,nounits"], 10)
    return float(sum(int(line) for line in shown.out.split())) if shown.code == 0 and shown.out.strip() else None


def fit(points):
    """Least squares of [(minutes, MiB)]: what it is at first, its slope, and what that makes of the whole time."""
    n = len(points)
    mean_x = sum(x for x, _ in points) / n
    mean_y = sum(y for _, y in points) / n
    spread = sum((x - mean_x) ** 2 for x, _ in points)
    slope = sum((x - mean_x) * (y - mean_y) for x, y in points) / spread if spread else 0.0
    return {"first_mib": round(points[0][1], 1), "last_mib": round(points[-1][1], 1),
            "slope_mib_per_minute": round(slope, 3), "growth_mib": round(slope * (points[-1][0] - points[0][0]), 2)}


class Load(threading.Thread):
    """One kind of requests, over and over until `end`."""

    def __init__(self, check, engine, name, arguments, end):
        super().__init__(name=name)
        self.check, self.engine, self.arguments, self.end = check, engine, arguments, end
        self.file = check.scratch / f"load {name}.json"
        self.tally = {"name": name, "rounds": 0, "completed": 0, "failed": 0, "total_output_tokens": 0}
        self.fault = None

    def run(self):
        programs = self.check.programs
        while self.fault is None and time.monotonic() < self.end:
            command = [programs.polystrate, "bench", "serve", "--target", self.engine.address, "--ignore_eos", "--save_result",
                       self.file, "--seed", str(self.tally["rounds"]), *self.arguments]
            result = run(command, self.end - time.monotonic(), programs.environment)
            if result.code is None:
                return
            if result.code != 0:
                self.fault = result.tail()
                return
            measured = json.loads(self.file.read_text())
            self.tally["rounds"] += 1
            for key in ("completed", "failed", "total_output_tokens"):
                self.tally[key] += measured[key]


def judge(samples, loads, counts):
    """What is kept of the soak. The first quarter of the time is for memory that is taken once."""
    steady = samples[len(samples) // 4:]
    fits = {"resident": fit([(at / 60, resident) for at, resident, _ in steady])}
    on_device = [(at / 60, device) for at, _, device in steady if device is not None]
    if len(on_device) > 1:
        fits["device"] = fit(on_device)
    detail = {**fits, **counts, "loads": [load.tally for load in loads], "samples": samples[:: max(1, len(samples) // 100)],
              "columns": ["seconds", "resident_mib", "device_mib"]}
    faults = [f"load {load.name}: {load.fault}" for load in loads if load.fault]
    faults += [f"{load.tally['failed']} requests of load {load.name} have failed" for load in loads if load.tally["failed"]]
    faults += [f"{name} memory grows: {entry['growth_mib']} MiB" for name, entry in fits.items()
               if entry["growth_mib"] > ALLOWED_MIB]
    if counts["generation_tokens"] == 0:
        faults.append("nothing was generated")
    if faults:
        raise Failed("; ".join(faults), detail)
    return detail


def soak(check):
    engine = Engine(check)
    try:
        engine.wait_until_serving(120)
        begin = time.monotonic()
        end = begin + check.soak_seconds
        loads = [Load(check, engine, name, arguments, end)
                 for name, arguments in (EMULATED_LOADS if check.emulated else LOADS).items()]
        for load in loads:
            load.start()
        samples = []
        while time.monotonic() < end:
            if engine.process.poll() is not None:
                raise Failed(f"the engine has ended: {engine.last_words()}")
            samples.append((round(time.monotonic() - begin, 1), round(resident_mib(engine.pid()), 1),
                            None if check.emulated else device_mib()))
            time.sleep(0.25 if check.emulated else 1.0)
        for load in loads:
            load.join()
        counts = {name: engine.counted(f"vllm:{name}_total") for name in ("generation_tokens", "num_preemptions")}
        engine.drain(60)
        return judge(samples, loads, counts)
    finally:
        end_session(engine.process.pid)
        engine.process.wait()

"""Lets lm-evaluation-harness drive a served engine: log-probabilities and ranks come over gRPC.

    polystrate serve --model DIR --listen 127.0.0.1:50051 &
    python tools/lm_eval_polystrate.py --target 127.0.0.1:50051 --tokenizer DIR \\
        --tasks tools/lm_eval_tasks/lambada.yaml --data lambada_test.jsonl --limit 100

Nothing is fetched: --tasks is a task file (or a folder of them) of lm-evaluation-harness whose data are
local, and the gRPC stubs are made from rpc/proto at run time. `--compare FILE` holds the result against what
`polystrate eval --json` printed and fails when a metric differs. `--hf DIR` in place of --target runs the
harness's own PyTorch model instead.
"""

import argparse
import concurrent.futures
import glob
import importlib
import json
import os
import sys
import tempfile

os.environ.setdefault("HF_HUB_OFFLINE", "1")
os.environ.setdefault("HF_DATASETS_OFFLINE", "1")

import grpc
import grpc_tools
import grpc_tools.protoc
import lm_eval
import transformers
import yaml
from lm_eval.api.model import TemplateLM
from lm_eval.utils import get_rolling_token_windows, make_disjoint_window
from tqdm import tqdm

PROTO_FOLDER = os.path.join(os.path.dirname(os.path.abspath(__file__)), "..", "rpc", "proto")
AGREEMENT = 1e-3  # relative to the value where that is above 1


def load_stubs():
    """The modules that protoc makes of rpc/proto, from a folder that is gone afterwards."""
    protos = [os.path.basename(path) for path in glob.glob(os.path.join(PROTO_FOLDER, "openengine*.proto"))]
    well_known = os.path.join(os.path.dirname(grpc_tools.__file__), "_proto")
    with tempfile.TemporaryDirectory() as folder:
        arguments = ["protoc", f"-I{PROTO_FOLDER}", f"-I{well_known}", f"--python_out={folder}",
                     f"--grpc_python_out={folder}", *protos]
        if grpc_tools.protoc.main(arguments) != 0:
            sys.exit("protoc cannot read rpc/proto")
        sys.path.insert(0, folder)
        try:
            return [importlib.import_module(name) for name in
                    ("openengine_generate_pb2", "openengine_control_pb2", "openengine_pb2_grpc")]
        finally:
            sys.path.remove(folder)


class SendKey(grpc.UnaryUnaryClientInterceptor, grpc.UnaryStreamClientInterceptor):
    """Every call carries the key, over TLS or not."""

    def __init__(self, key):
        self.metadata = ("authorization", f"Bearer {key}")

    def intercept_unary_unary(self, continuation, details, request):
        metadata = [*(details.metadata or []), self.metadata]
        return continuation(details._replace(metadata=metadata), request)

    intercept_unary_stream = intercept_unary_unary


def connect(target, tls_ca, api_key_file):
    options = [("grpc.max_receive_message_length", -1)]
    if tls_ca:
        with open(tls_ca, "rb") as file:
            channel = grpc.secure_channel(target, grpc.ssl_channel_credentials(file.read()), options)
    else:
        channel = grpc.insecure_channel(target, options)
    if api_key_file is None:
        return channel
    with open(api_key_file) as file:
        keys = [line.strip() for line in file if line.strip() and not line.strip().startswith("#")]
    if not keys:
        sys.exit(f"{api_key_file} holds no key")
    return grpc.intercept_channel(channel, SendKey(keys[0]))


class PolystrateLM(TemplateLM):
    """A model of lm-evaluation-harness that lives in a running `polystrate serve`."""

    def __init__(self, target, tokenizer, concurrency=64, tls_ca=None, api_key_file=None):
        super().__init__()
        self.generate_pb, control_pb, services = load_stubs()
        self.tokenizer = transformers.AutoTokenizer.from_pretrained(tokenizer)
        self.concurrency = int(concurrency)
        channel = connect(target, tls_ca, api_key_file)
        self.inference = services.InferenceStub(channel)
        try:
            self.model_info = services.ControlStub(channel).GetModelInfo(
                control_pb.GetModelInfoRequest(), timeout=60, wait_for_ready=True)
        except grpc.RpcError as error:
            sys.exit(f"{target} does not answer; start polystrate serve there: {error.details()}")

    @property
    def max_length(self):
        return self.model_info.max_context_length

    @property
    def max_gen_toks(self):
        return 256

    @property
    def eot_token_id(self):
        return self.tokenizer.eos_token_id

    @property
    def prefix_token_id(self):
        bos = self.tokenizer.bos_token_id
        return self.eot_token_id if bos is None else bos

    def tok_encode(self, string, add_special_tokens=None, **_):
        begins = self.tokenizer.decode([self.prefix_token_id])
        if add_special_tokens is None and string.startswith(begins):
            add_special_tokens = False  # it is there already
        options = {} if add_special_tokens is None else {"add_special_tokens": add_special_tokens}
        return self.tokenizer.encode(string, **options)

    def in_parallel(self, function, items, title):
        """Many calls at once: the engine batches what it has."""
        with concurrent.futures.ThreadPoolExecutor(self.concurrency) as pool:
            return list(tqdm(pool.map(function, items), total=len(items), desc=title))

    def call(self, request):
        events = list(self.inference.Generate(request))
        for event in events:
            if event.HasField("error"):
                raise RuntimeError(event.error.message)
        return events

    def score(self, tokens, num_wanted):
        """Log-probability of the last tokens given all before them, and whether each is the likeliest."""
        tokens = tokens[-(self.max_length + 1):]  # the last is not fed
        request = self.generate_pb.GenerateRequest()
        request.token_ids.ids.extend(tokens)
        request.stopping.max_tokens = 0
        request.response.return_prompt_logprobs = True
        request.response.prompt_logprob_start = len(tokens) - num_wanted
        scores = self.call(request)[0].prompt.tokens
        assert [score.token_id for score in scores] == tokens[-num_wanted:]
        return sum(score.logprob for score in scores), all(score.rank == 1 for score in scores)

    def _loglikelihood_tokens(self, requests, **_):
        answers = self.in_parallel(lambda r: self.score(r[1] + r[2], len(r[2])), requests, "loglikelihood")
        for (texts, _, _), answer in zip(requests, answers):
            if texts is not None:
                self.cache_hook.add_partial("loglikelihood", texts, answer)
        return answers

    def loglikelihood_rolling(self, requests, disable_tqdm=False):
        windows, owners = [], []
        for index, request in enumerate(requests):
            for context, wanted in map(make_disjoint_window, get_rolling_token_windows(
                    self.tok_encode(request.args[0]), self.prefix_token_id, self.max_length, 1)):
                windows.append((None, context, wanted))
                owners.append(index)
        totals = [0.0] * len(requests)
        for index, (logprob, _) in zip(owners, self._loglikelihood_tokens(windows)):
            totals[index] += logprob
        return totals

    def generate_until(self, requests, disable_tqdm=False):
        return self.in_parallel(lambda request: self.generate(*request.args), requests, "generate_until")

    def generate(self, context, options):
        """The text up to the first stop string, which the client looks for itself."""
        until = options.get("until") or []
        until = [until] if isinstance(until, str) else until
        wanted = options.get("max_gen_toks", self.max_gen_toks)
        tokens = self.tok_encode(context)[-(self.max_length - wanted):]
        request = self.generate_pb.GenerateRequest()
        request.token_ids.ids.extend(tokens)
        request.stopping.max_tokens = wanted
        request.sampling.temperature = options.get("temperature", 0.0) if options.get("do_sample") else 0.0
        text, stream = "", self.inference.Generate(request)
        for event in stream:
            if event.HasField("error"):
                raise RuntimeError(event.error.message)
            text += event.token.text
            ends = [text.find(stop) for stop in until if stop and stop in text]
            if ends:
                stream.cancel()
                return text[:min(ends)]
        return text


def read_tasks(path, data):
    """Task files as the harness takes them in memory, with their data files where `data` says or where
    they themselves say, seen from their own folder."""
    paths = sorted(glob.glob(os.path.join(path, "*.yaml"))) if os.path.isdir(path) else [path]
    tasks = []
    for task_path in paths:
        with open(task_path) as file:
            task = yaml.safe_load(file)
        files = {task["test_split"]: data} if data else task.get("dataset_kwargs", {}).get("data_files")
        if not files:
            sys.exit(f"{task_path} names no data files (dataset_kwargs: data_files); give --data")
        folder = "." if data else os.path.dirname(os.path.abspath(task_path))
        files = {split: os.path.abspath(os.path.join(folder, name)) for split, name in files.items()}
        task["dataset_kwargs"] = {"data_files": files}
        tasks.append(task)
    return tasks


def metrics_of(results):
    """{metric: {value, stderr}} of one task, out of "acc,none", "acc_stderr,none", ..."""
    metrics = {}
    for key, value in results.items():
        name = key.split(",")[0]
        if "," not in key or not isinstance(value, (int, float)):
            continue
        kind = "stderr" if name.endswith("_stderr") else "value"
        metrics.setdefault(name.removesuffix("_stderr"), {"stderr": None})[kind] = value
    return metrics


def compare(ours_path, theirs):
    """Prints both and exits with 1 unless they agree."""
    with open(ours_path) as file:
        ours = json.load(file)
    agree = ours["task"] in theirs
    for metric, values in theirs.get(ours["task"], {}).items():
        for kind, expected in values.items():
            got = ours["metrics"][metric][kind]
            difference = 0.0 if got == expected else abs(got - expected) / max(1.0, abs(expected))
            agree = agree and difference <= AGREEMENT
            print(f"{metric:12} {kind:6}  polystrate eval {got!s:24} lm-eval {expected!s:24} "
                  f"difference {difference:.1e}")
    print("agree" if agree else "DIFFER")
    sys.exit(0 if agree else 1)


def main():
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--target", help="HOST:PORT of polystrate serve")
    parser.add_argument("--hf", help="model directory for lm-eval's own PyTorch model, in place of --target")
    parser.add_argument("--tls_ca", help="PEM file of whom the server's certificate may be signed by")
    parser.add_argument("--api_key_file", help="file whose first key goes with every call")
    parser.add_argument("--tokenizer", help="model directory whose tokenizer is used")
    parser.add_argument("--tasks", required=True, help="task file, or a folder of them")
    parser.add_argument("--data", help="JSONL file, in place of what the task file names")
    parser.add_argument("--limit", type=int, help="only the first questions, as many as this")
    parser.add_argument("--concurrency", type=int, default=64, help="requests at a time")
    parser.add_argument("--compare", help="what polystrate eval --json printed")
    arguments = parser.parse_args()
    if (arguments.target is None) == (arguments.hf is None):
        parser.error("give one of --target and --hf")
    if arguments.target:
        if arguments.tokenizer is None:
            parser.error("--target needs --tokenizer")
        model = PolystrateLM(arguments.target, arguments.tokenizer, arguments.concurrency,
                             arguments.tls_ca, arguments.api_key_file)
    else:
        from lm_eval.models.huggingface import HFLM
        model = HFLM(pretrained=arguments.hf, dtype="float32", device="cpu", batch_size=8)
    results = lm_eval.simple_evaluate(model=model, tasks=read_tasks(arguments.tasks, arguments.data),
                                      limit=arguments.limit)
    metrics = {name: metrics_of(task) for name, task in results["results"].items()}
    print(json.dumps(metrics))
    if arguments.compare:
        compare(arguments.compare, metrics)


if __name__ == "__main__":
    main()

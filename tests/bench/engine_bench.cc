// The speed of the whole engine (scheduler, plans, one pipeline stage, sampling) against the
// machine's own limits, measured in the same run: random bfloat16 weights of Pythia-160M's shape,
// or an MLKV variant of it. Prints medians with their spread; passes no judgement.
//
//   GOMP_SPINCOUNT=1000 engine_bench [--threads 2] [--repeats 7] [--kv_heads 12] [--kv_layers 12]
//                                    [--json]
//
// The variable is what the program sets for itself (launcher/waiting.cc).
#include <algorithm>
#include <cstdio>
#include <cstdlib>
#include <cstring>
#include <functional>
#include <latch>
#include <memory>
#include <string>
#include <vector>

#include "engine/json_writer.h"
#include "kernels/machine_limits.h"
#include "tests/testing/local_engine.h"
#include "tests/testing/temp_dir.h"
#include "tests/testing/tiny_model.h"

namespace polystrate {
namespace {

constexpr int64_t kPrefillTokens = 512;
constexpr int64_t kDecodeSteps = 32;

struct Options {
  int threads = 2;
  int repeats = 7;
  int kv_heads = 12;
  int kv_layers = 12;
  bool json = false;
};

bool ParseOptions(int argc, char** argv, Options* options) {
  struct Flag {
    const char* name;
    int* value;
    int most;
  };
  const Flag flags[] = {{"--threads", &options->threads, 1024},
                        {"--repeats", &options->repeats, 1000},
                        {"--kv_heads", &options->kv_heads, 12},
                        {"--kv_layers", &options->kv_layers, 12}};
  for (int i = 1; i < argc; ++i) {
    if (std::strcmp(argv[i], "--json") == 0) {
      options->json = true;
      continue;
    }
    const Flag* flag = std::find_if(std::begin(flags), std::end(flags), [&](const Flag& f) {
      return std::strcmp(f.name, argv[i]) == 0;
    });
    if (flag == std::end(flags) || ++i == argc) return false;
    *flag->value = std::atoi(argv[i]);
    if (*flag->value < 1 || *flag->value > flag->most) return false;
  }
  return options->repeats >= 5 && 12 % options->kv_heads == 0;
}

TinyModelSpec MakeSpec(const Options& options) {
  TinyModelSpec spec;
  spec.vocab_size = 50304;
  spec.hidden_size = 768;
  spec.num_layers = 12;
  spec.num_heads = 12;
  spec.intermediate_size = 3072;
  spec.max_position_embeddings = 2048;
  spec.dtype = "BF16";
  spec.num_kv_heads = options.kv_heads;
  spec.num_kv_layers = options.kv_layers;
  spec.reuse_keys = "post_rope";
  return spec;
}

// What a step must at least read and compute, from the model's shape.
class Cost {
 public:
  explicit Cost(const TinyModelSpec& spec)
      : hidden_(static_cast<double>(spec.hidden_size)),
        layers_(spec.num_layers),
        kv_columns_(static_cast<double>(spec.kv_heads() * spec.head_dim())) {
    const auto owners = static_cast<double>(spec.sharing().owners().size());
    const double attention =
        2.0 * layers_ * hidden_ * hidden_ + 2.0 * owners * hidden_ * kv_columns_;
    const double mlp = 2.0 * layers_ * hidden_ * static_cast<double>(spec.intermediate_size);
    layer_weights_ = attention + mlp;
    head_weights_ = hidden_ * static_cast<double>(spec.vocab_size);
  }

  double weight_bytes() const { return kElementBytes * (layer_weights_ + head_weights_); }
  // Every layer reads a cache, its own or its owner's.
  double KvBytes(double context) const {
    return kElementBytes * 2.0 * layers_ * kv_columns_ * context;
  }
  // A prompt of n tokens in one step: causal attention sees half of the square, and the head runs
  // for the last token alone.
  double PrefillOperations(double n) const {
    return 2.0 * (n * layer_weights_ + head_weights_) + 2.0 * layers_ * hidden_ * n * (n + 1.0);
  }

 private:
  static constexpr double kElementBytes = 2.0;
  const double hidden_, layers_, kv_columns_;
  double layer_weights_, head_weights_;
};

// Notes when each token came.
class Clock : public TokenSink {
 public:
  explicit Clock(std::latch* finished) : finished_(finished) { times_.reserve(1024); }
  void OnPrompt(const std::vector<PromptScore>&) override {}
  void OnToken(const TokenInfo&) override { times_.push_back(Now()); }
  void OnFinished(const Finished&) override { finished_->count_down(); }
  void OnError(const absl::Status& status) override {
    CheckFailed(__FILE__, __LINE__, std::string(status.message()));
  }
  const std::vector<double>& times() const { return times_; }

 private:
  std::latch* finished_;
  std::vector<double> times_;
};

// Runs `batch` requests to their end; element i says when request i's tokens came.
std::vector<std::vector<double>> RunBatch(Engine& engine, int batch, int64_t prompt_len,
                                          int64_t max_tokens, double* submitted) {
  std::latch finished(batch);
  std::vector<std::unique_ptr<Clock>> clocks;
  std::vector<GenerationRequest> requests(batch);
  for (int i = 0; i < batch; ++i) {
    clocks.push_back(std::make_unique<Clock>(&finished));
    requests[i].prompt = RandomTokens(prompt_len, 50304, i + 1);
    requests[i].max_tokens = max_tokens;
    requests[i].ignore_eos = true;
    requests[i].sampling.temperature = 0.0;
  }
  *submitted = Now();
  for (int i = 0; i < batch; ++i) CHECK(engine.Submit(requests[i], clocks[i].get()).ok());
  finished.wait();
  std::vector<std::vector<double>> times;
  for (const auto& clock : clocks) times.push_back(clock->times());
  return times;
}

// Seconds per step while all of the batch decode.
double DecodeSeconds(Engine& engine, int batch, int64_t context) {
  double submitted = 0.0;
  // Prompts are taken in order: when the last has its second token, the first is ahead by at most a
  // token for each of the others, and everyone still runs kDecodeSteps later.
  const int64_t max_tokens = 2 + kDecodeSteps + batch;
  const auto times = RunBatch(engine, batch, context - kDecodeSteps / 2, max_tokens, &submitted);
  const std::vector<double>& last = times.back();
  return (last[1 + kDecodeSteps] - last[1]) / static_cast<double>(kDecodeSteps);
}

double PrefillSeconds(Engine& engine) {
  double submitted = 0.0;
  const auto times = RunBatch(engine, 1, kPrefillTokens, 1, &submitted);
  return times[0][0] - submitted;
}

struct Row {
  std::string name;
  int tokens;  // of a step
  double amount;
  double limit;  // amount per second
  const char* unit;
  double unit_size;
  std::vector<double> seconds;  // of a step, sorted

  double median() const { return seconds[seconds.size() / 2]; }
  double rate() const { return amount / median() / unit_size; }
  double share() const { return amount / median() / limit; }
};

struct Limits {
  double read, matrix;
};

// The best of before and after: a neighbour that slowed one of them must not flatter the engine.
Limits MeasureLimits(int threads, Limits known) {
  const Stream stream = Stream::Cpu(threads);
  return {std::max(known.read, MeasureReadBandwidth(threads)),
          std::max(known.matrix, MeasureMatrixRate(stream, DType::kBFloat16))};
}

std::vector<double> Repeat(int repeats, const std::function<double()>& measure) {
  measure();
  std::vector<double> seconds;
  for (int i = 0; i < repeats; ++i) seconds.push_back(measure());
  std::sort(seconds.begin(), seconds.end());
  return seconds;
}

std::vector<Row> Measure(const Options& options, const TinyModelSpec& spec, Limits* limits) {
  TempDir dir;
  WriteTinyModel(dir.path(), spec);
  *limits = MeasureLimits(options.threads, {0.0, 0.0});
  LocalEngineOptions engine_options;
  engine_options.dtype = DType::kBFloat16;
  engine_options.num_threads = options.threads;
  engine_options.num_blocks = 128;
  engine_options.max_num_batched_tokens = kPrefillTokens;
  LocalEngine local(dir.path(), engine_options);
  local.Start();
  const Cost cost(spec);
  std::vector<Row> rows;
  struct Decode {
    int batch;
    int64_t context;
  };
  for (const auto& [batch, context] : {Decode{1, 128}, Decode{1, 1024}, Decode{8, 128}}) {
    rows.push_back(
        {"decode, batch " + std::to_string(batch) + ", context " + std::to_string(context), batch,
         cost.weight_bytes() + batch * cost.KvBytes(static_cast<double>(context)), 0.0, "GB/s",
         kGiga, Repeat(options.repeats, [&, batch = batch, context = context] {
           return DecodeSeconds(local.engine(), batch, context);
         })});
  }
  rows.push_back({"prefill, 512 tokens", kPrefillTokens, cost.PrefillOperations(kPrefillTokens),
                  0.0, "TFLOP/s", kTera,
                  Repeat(options.repeats, [&] { return PrefillSeconds(local.engine()); })});
  local.Stop();
  *limits = MeasureLimits(options.threads, *limits);
  for (Row& row : rows) row.limit = row.unit_size == kGiga ? limits->read : limits->matrix;
  return rows;
}

void PrintTable(std::FILE* out, const Options& options, const TinyModelSpec& spec,
                const Limits& limits, const std::vector<Row>& rows) {
  const Cost cost(spec);
  std::fprintf(out,
               "Pythia-160M's shape, bfloat16, %d KV heads, %d KV layers: %.1f MB of weights and "
               "%.1f kB of KV per context token are read a step\n"
               "%d threads; limits: read %.1f GB/s, bfloat16 matrix product %.3f TFLOP/s\n\n",
               options.kv_heads, options.kv_layers, cost.weight_bytes() / 1e6,
               cost.KvBytes(1.0) / 1e3, options.threads, limits.read / kGiga,
               limits.matrix / kTera);
  std::fprintf(out, "%-30s %10s %28s %16s %9s\n", "", "tokens/s", "ms per step (min..max)", "rate",
               "of limit");
  for (const Row& row : rows) {
    std::fprintf(out, "%-30s %10.1f %10.2f (%6.2f..%7.2f) %8.2f %-7s %8.0f%%\n", row.name.c_str(),
                 row.tokens / row.median(), row.median() * 1e3, row.seconds.front() * 1e3,
                 row.seconds.back() * 1e3, row.rate(), row.unit, 100.0 * row.share());
  }
}

void PrintJson(const Options& options, const Limits& limits, const std::vector<Row>& rows) {
  JsonWriter json;
  json.BeginObject().Key("threads").Int(options.threads).Key("repeats").Int(options.repeats);
  json.Key("num_kv_heads").Int(options.kv_heads).Key("num_kv_layers").Int(options.kv_layers);
  json.Key("read_gb_per_s").Double(limits.read / kGiga);
  json.Key("matrix_tflop_per_s").Double(limits.matrix / kTera);
  json.Key("rows").BeginArray();
  for (const Row& row : rows) {
    json.BeginObject().Key("name").String(row.name);
    json.Key("tokens_per_s").Double(row.tokens / row.median());
    json.Key("median_ms").Double(row.median() * 1e3);
    json.Key("min_ms").Double(row.seconds.front() * 1e3);
    json.Key("max_ms").Double(row.seconds.back() * 1e3);
    json.Key("rate").Double(row.rate()).Key("unit").String(row.unit);
    json.Key("share").Double(row.share()).EndObject();
  }
  json.EndArray().EndObject();
  std::printf("%s\n", json.text().c_str());
}

int Main(int argc, char** argv) {
  Options options;
  if (!ParseOptions(argc, argv, &options)) {
    std::fprintf(
        stderr,
        "usage: engine_bench [--threads N] [--repeats N, 5 or more]\n"
        "                    [--kv_heads a divisor of 12] [--kv_layers 1 to 12] [--json]\n");
    return 2;
  }
  const TinyModelSpec spec = MakeSpec(options);
  Limits limits;
  const std::vector<Row> rows = Measure(options, spec, &limits);
  PrintTable(options.json ? stderr : stdout, options, spec, limits, rows);
  if (options.json) PrintJson(options, limits, rows);
  return 0;
}

}  // namespace
}  // namespace polystrate

int main(int argc, char** argv) { return polystrate::Main(argc, argv); }

// polystrate bench model: decode and prefill of well-known shapes with random weights, whole steps
// of a stage, beside what their bytes and operations allow.

#include <cstdio>
#include <optional>
#include <utility>

#include "absl/strings/str_cat.h"
#include "absl/strings/str_format.h"
#include "engine/json_writer.h"
#include "engine/public_shapes.h"
#include "kernels/core/status.h"
#include "launcher/bench_command.h"
#include "launcher/bench_machine.h"
#include "launcher/decode_session.h"
#include "launcher/engine_setup.h"
#include "launcher/progress.h"

namespace polystrate {
namespace {

struct Options {
  DType dtype = DType::kBFloat16;
  int64_t batch = 1;
  int64_t context = 128;
  int64_t steps = 64;
  int64_t prompts = 4;  // 0: no prefill
  int64_t prompt_len = 2048;
  int64_t repeats = 7;  // of the prefill
  int64_t sweep_bytes = kSweepBytes;
};

struct Row {
  std::string shape;
  bool prefill = false;
  int64_t sequences = 0;
  int64_t context = 0;
  Timing time;
  double bytes = 0;
  double operations = 0;

  double tokens() const { return static_cast<double>(prefill ? sequences * context : sequences); }
};

absl::Status CheckOptions(const Options& options) {
  RETURN_IF_ERROR(CheckBenchRange("batch", options.batch, 1, 65536));
  RETURN_IF_ERROR(CheckBenchRange("context", options.context, 1, 131072));
  RETURN_IF_ERROR(CheckBenchRange("steps", options.steps, 4, 65536));
  RETURN_IF_ERROR(CheckBenchRange("prompts", options.prompts, 0, 4096));
  RETURN_IF_ERROR(CheckBenchRange("prompt_len", options.prompt_len, 1, 131072));
  return CheckBenchRange("repeats", options.repeats, 1, 1000);
}

constexpr int kWarmSteps = 3;  // a GPU records the second of a shape

Row Decode(const PublicShape& shape, const Options& options, DecodeSession& session) {
  session.Begin(options.batch, options.context);
  for (int i = 0; i < kWarmSteps; ++i) session.Step(/*advance=*/false);
  std::vector<double> seconds;
  for (int64_t i = 0; i < options.steps; ++i) seconds.push_back(session.Step(/*advance=*/true));
  const auto n = static_cast<double>(options.batch);
  const double context =
      static_cast<double>(options.context) + (static_cast<double>(options.steps) + 1) / 2;
  Row row{shape.name, /*prefill=*/false, options.batch, options.context};
  row.time = Summarize(std::move(seconds));
  row.bytes = static_cast<double>(session.weight_bytes()) +
              n * context * static_cast<double>(session.kv_read_bytes());
  row.operations = n * (static_cast<double>(session.matrix_operations()) +
                        context * static_cast<double>(session.attention_operations()));
  return row;
}

Row Prefill(const PublicShape& shape, const Options& options, DecodeSession& session) {
  session.Prefill(options.prompts, options.prompt_len);  // warms up
  std::vector<double> seconds;
  for (int64_t i = 0; i < options.repeats; ++i) {
    seconds.push_back(session.Prefill(options.prompts, options.prompt_len));
  }
  Row row{shape.name, /*prefill=*/true, options.prompts, options.prompt_len};
  row.time = Summarize(std::move(seconds));
  row.bytes = static_cast<double>(session.weight_bytes());
  row.operations = session.PrefillOperations(options.prompts, options.prompt_len);
  return row;
}

// One shape at a time: each gets all the memory.
absl::Status MeasureShape(const PublicShape& shape, const Options& options, Stream* stream,
                          std::vector<Row>* rows) {
  DecodeOptions decode;
  decode.dtype = options.dtype;
  decode.max_sequences = std::max(options.batch, options.prompts);
  decode.max_prompt_tokens = options.prompts * options.prompt_len;
  decode.sequence_len = options.context + options.steps + 1;
  if (options.prompts > 0) decode.sequence_len = std::max(decode.sequence_len, options.prompt_len);
  if (decode.sequence_len > shape.config.max_position_embeddings) {
    return absl::InvalidArgumentError(absl::StrCat(
        shape.name, " has ", shape.config.max_position_embeddings,
        " positions; --context and --steps, or --prompt_len, ask for ", decode.sequence_len));
  }
  const int64_t blocks = (decode.sequence_len + decode.block_size - 1) / decode.block_size;
  decode.kv_memory = decode.max_sequences * blocks * decode.block_size *
                     shape.config.KvBytesPerToken(options.dtype);
  ASSIGN_OR_RETURN(const auto session, DecodeSession::Create(shape.config, decode, stream));
  rows->push_back(Decode(shape, options, *session));
  if (options.prompts > 0) rows->push_back(Prefill(shape, options, *session));
  return absl::OkStatus();
}

std::string TableText(const std::vector<Row>& rows, const Options& options,
                      const MachineLimits& limits, const std::string& machine) {
  std::string text = absl::StrFormat(
      "Well-known shapes with random %s weights, whole steps of one stage.\nOn %s.\npredicted: "
      "what "
      "reading weights and cache, or the operations, take at the limit, whichever is more.\n\n",
      Name(options.dtype), machine);
  absl::StrAppendFormat(&text, "%-15s %-8s %9s %8s %10s %10s %10s %12s %26s %8s %9s\n", "", "",
                        "sequences", "context", "MB", "GFLOP", "predicted", "tokens/s",
                        "ms (10%..90%)", "of read", "of matrix");
  for (const Row& row : rows) {
    const Timing& time = row.time;
    absl::StrAppendFormat(
        &text,
        "%-15s %-8s %9d %8d %10.1f %10.1f %10.3f %12.1f %9.3f (%7.3f..%7.3f) %7.0f%% %8.0f%%\n",
        row.shape, row.prefill ? "prefill" : "decode", row.sequences, row.context, row.bytes / 1e6,
        row.operations / kGiga, limits.SecondsFor(row.bytes, row.operations) * 1e3,
        row.tokens() / time.median, time.median * 1e3, time.fastest * 1e3, time.slowest * 1e3,
        100 * row.bytes / time.median / limits.read,
        100 * row.operations / time.median / limits.matrix);
  }
  return text;
}

std::string JsonText(const std::vector<Row>& rows, const Options& options,
                     const MachineLimits& limits, const MachineFlags& machine) {
  JsonWriter json;
  json.BeginObject().Key("bench").String("model").Key("device").String(machine.device);
  json.Key("dtype").String(Name(options.dtype)).Key("limits");
  WriteLimits(limits, &json);
  json.Key("rows").BeginArray();
  for (const Row& row : rows) {
    json.BeginObject().Key("shape").String(row.shape);
    json.Key("phase").String(row.prefill ? "prefill" : "decode");
    json.Key("sequences").Int(row.sequences).Key("context").Int(row.context);
    json.Key("tokens_per_s").Double(row.tokens() / row.time.median);
    WriteSpeed(row.time, row.bytes, row.operations, limits, &json);
    json.EndObject();
  }
  json.EndArray().EndObject();
  return json.text();
}

}  // namespace

absl::Status BenchModel(const Arguments& arguments) {
  FlagSet flags("polystrate bench model: decode and prefill of well-known shapes; one process");
  Options options;
  MachineFlags machine;
  std::string shapes;
  std::optional<std::string> dtype, json;
  bool quick = false;
  flags.Add("shapes", &shapes, "which, as pythia-6.9b,llama-3.1-8b [all]");
  flags.Add("batch", &options.batch, "sequences that decode");
  flags.Add("context", &options.context,
            "random tokens in the cache of each, before the first step");
  flags.Add("steps", &options.steps, "greedy steps");
  flags.Add("prompts", &options.prompts, "sequences that prefill, in one step; 0: none");
  flags.Add("prompt_len", &options.prompt_len, "tokens of each");
  flags.Add("repeats", &options.repeats, "prefills");
  flags.Add("dtype", &dtype, "bfloat16, float32 or, on a GPU, float16 (default: bfloat16)");
  flags.Add("quick", &quick, "a few steps of short sequences, for tests; overrides the above");
  flags.Add("json", &json, "write the results to this file, one line of JSON");
  machine.AddTo(&flags);
  RETURN_IF_ERROR(flags.Parse(arguments));
  if (flags.help_requested()) {
    std::fputs(flags.Help().c_str(), stdout);
    return absl::OkStatus();
  }
  if (quick) options = {options.dtype, 1, 30, 4, 2, 16, 1, int64_t{1} << 20};
  RETURN_IF_ERROR(CheckOptions(options));
  RETURN_IF_ERROR(CheckWritable("json", json));
  ASSIGN_OR_RETURN(const std::vector<PublicShape> selected, SelectShapes(shapes));
  ASSIGN_OR_RETURN(Stream stream, machine.Open());
  if (dtype.has_value()) {
    ASSIGN_OR_RETURN(options.dtype, ChooseDType(dtype, ModelConfig(), stream.device().type));
  }
  MachineLimits limits;
  MeasureLimits(stream, options.dtype, options.sweep_bytes, &limits);
  Progress progress("measuring", /*shown=*/true);
  std::vector<Row> rows;
  for (size_t i = 0; i < selected.size(); ++i) {
    RETURN_IF_ERROR(MeasureShape(selected[i], options, &stream, &rows));
    progress.Update(static_cast<double>(i + 1) / static_cast<double>(selected.size()));
  }
  MeasureLimits(stream, options.dtype, options.sweep_bytes, &limits);
  std::fputs(TableText(rows, options, limits, DescribeMachine(stream, limits)).c_str(), stdout);
  return json.has_value()
             ? WriteTextFile("json", *json, JsonText(rows, options, limits, machine) + "\n")
             : absl::OkStatus();
}

}  // namespace polystrate

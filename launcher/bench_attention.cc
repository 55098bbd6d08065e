// polystrate bench attention: the attention operator alone, decode and prefill, beside what its
// bytes and operations allow.

#include <cstdio>
#include <optional>
#include <utility>

#include "absl/strings/str_cat.h"
#include "absl/strings/str_format.h"
#include "engine/json_writer.h"
#include "engine/model_config.h"
#include "kernels/core/status.h"
#include "kernels/cuda/context.h"
#include "launcher/attention_speed.h"
#include "launcher/bench_command.h"
#include "launcher/bench_machine.h"
#include "launcher/engine_setup.h"
#include "launcher/progress.h"

namespace polystrate {
namespace {

struct Options {
  AttentionBenchOptions bench;
  int64_t batch = 64;      // decode
  int64_t context = 8192;  // decode
  int64_t prompts = 1;     // prefill
  int64_t prompt_len = 16384;
  int64_t heads = 32;
  std::string kv_heads = "32,8,1";
  int64_t head_dim = 128;
  std::string phase = "both";
};

struct Report {
  Options options;
  std::string device;
  MachineLimits limits;
  std::string machine;
  std::vector<AttentionShape> shapes;
  std::vector<Timing> timings;
};

// Whether the stream's GPU has two kernels for prefill.
bool HasWarpgroups(const Stream& stream) {
  if (stream.device().type != DeviceType::kCuda) return false;
  stream.cuda().set_warpgroups(true);
  return stream.cuda().warpgroups();
}

const char* PhaseName(const AttentionShape& shape) {
  if (!shape.prefill) return "decode";
  return shape.warpgroups ? "prefill, warpgroups" : "prefill";
}

absl::StatusOr<std::vector<AttentionShape>> Shapes(const Options& options, bool warpgroups) {
  RETURN_IF_ERROR(CheckBenchRange("batch", options.batch, 1, 65536));
  RETURN_IF_ERROR(CheckBenchRange("context", options.context, 1, 1 << 20));
  RETURN_IF_ERROR(CheckBenchRange("prompts", options.prompts, 1, 4096));
  RETURN_IF_ERROR(CheckBenchRange("prompt_len", options.prompt_len, 1, 1 << 20));
  RETURN_IF_ERROR(CheckBenchRange("heads", options.heads, 1, 1024));
  RETURN_IF_ERROR(CheckBenchRange("head_dim", options.head_dim, 1, 512));
  if (options.phase != "both" && options.phase != "decode" && options.phase != "prefill") {
    return absl::InvalidArgumentError(
        absl::StrCat("--phase is \"", options.phase, "\"; it must be decode, prefill or both"));
  }
  ASSIGN_OR_RETURN(const std::vector<int> kv_heads, ParseIntList("kv_heads", options.kv_heads));
  std::vector<AttentionShape> shapes;
  for (const bool prefill : {false, true}) {
    if (options.phase == (prefill ? "decode" : "prefill")) continue;
    for (const int g : kv_heads) {
      if (g < 1 || options.heads % g != 0) {
        return absl::InvalidArgumentError(
            absl::StrCat("--kv_heads has ", g, ", which does not divide --heads ", options.heads));
      }
      shapes.push_back({prefill, prefill ? options.prompts : options.batch,
                        prefill ? options.prompt_len : options.context,
                        static_cast<int>(options.heads), g, static_cast<int>(options.head_dim)});
      if (!prefill || !warpgroups) continue;
      shapes.push_back(shapes.back());
      shapes.back().warpgroups = true;
    }
  }
  return shapes;
}

std::string TableText(const Report& report) {
  const DType dtype = report.options.bench.dtype;
  std::string text = absl::StrFormat(
      "Attention over a paged cache of random %s, blocks of %d tokens in no order, from memory.\n"
      "On %s.\npredicted: what reading the bytes or doing the operations takes at the limit, "
      "whichever is more.\n\n",
      Name(dtype), report.options.bench.block_size, report.machine);
  absl::StrAppendFormat(&text, "%-19s %9s %8s %6s %8s %8s %10s %10s %10s %26s %8s %9s\n", "",
                        "sequences", "context", "heads", "KV heads", "head dim", "MB", "GFLOP",
                        "predicted", "ms (10%..90%)", "of read", "of matrix");
  for (size_t i = 0; i < report.shapes.size(); ++i) {
    const AttentionShape& shape = report.shapes[i];
    const Timing& time = report.timings[i];
    const double bytes = shape.Bytes(dtype), operations = shape.Operations();
    absl::StrAppendFormat(
        &text,
        "%-19s %9d %8d %6d %8d %8d %10.1f %10.1f %10.3f %9.3f (%7.3f..%7.3f) %7.0f%% %8.0f%%\n",
        PhaseName(shape), shape.num_sequences, shape.context, shape.num_heads, shape.num_kv_heads,
        shape.head_dim, bytes / 1e6, operations / kGiga,
        report.limits.SecondsFor(bytes, operations) * 1e3, time.median * 1e3, time.fastest * 1e3,
        time.slowest * 1e3, 100 * bytes / time.median / report.limits.read,
        100 * operations / time.median / report.limits.matrix);
  }
  return text;
}

std::string JsonText(const Report& report) {
  const DType dtype = report.options.bench.dtype;
  JsonWriter json;
  json.BeginObject().Key("bench").String("attention").Key("device").String(report.device);
  json.Key("dtype").String(Name(dtype)).Key("limits");
  WriteLimits(report.limits, &json);
  json.Key("rows").BeginArray();
  for (size_t i = 0; i < report.shapes.size(); ++i) {
    const AttentionShape& shape = report.shapes[i];
    json.BeginObject().Key("phase").String(shape.prefill ? "prefill" : "decode");
    if (shape.warpgroups) json.Key("warpgroups").Bool(true);
    json.Key("sequences").Int(shape.num_sequences).Key("context").Int(shape.context);
    json.Key("heads").Int(shape.num_heads).Key("kv_heads").Int(shape.num_kv_heads);
    json.Key("head_dim").Int(shape.head_dim);
    WriteSpeed(report.timings[i], shape.Bytes(dtype), shape.Operations(), report.limits, &json);
    json.EndObject();
  }
  json.EndArray().EndObject();
  return json.text();
}

}  // namespace

absl::Status BenchAttention(const Arguments& arguments) {
  FlagSet flags("polystrate bench attention: the attention operator alone, decode and prefill");
  Options options;
  MachineFlags machine;
  std::optional<std::string> dtype, json;
  bool quick = false;
  flags.Add("phase", &options.phase, "decode, prefill or both");
  flags.Add("batch", &options.batch, "sequences that decode");
  flags.Add("context", &options.context, "tokens in the cache of each");
  flags.Add("prompts", &options.prompts, "sequences that prefill");
  flags.Add("prompt_len", &options.prompt_len, "tokens of each");
  flags.Add("heads", &options.heads, "query heads");
  flags.Add("kv_heads", &options.kv_heads, "KV heads, one row of results for each");
  flags.Add("head_dim", &options.head_dim, "elements of a head");
  flags.Add("dtype", &dtype, "of keys, values and queries (default: bfloat16)");
  flags.Add("quick", &quick, "short sequences, few repeats, for tests; overrides the above");
  flags.Add("json", &json, "write the results to this file, one line of JSON");
  machine.AddTo(&flags);
  RETURN_IF_ERROR(flags.Parse(arguments));
  if (flags.help_requested()) {
    std::fputs(flags.Help().c_str(), stdout);
    return absl::OkStatus();
  }
  if (quick) {
    options = Options{{DType::kBFloat16, 16, 1, 1 << 20}, 2, 40, 1, 48, 4, "4,1", 32};
  }
  ASSIGN_OR_RETURN(const Stream stream, machine.Open());
  if (dtype.has_value()) {
    ASSIGN_OR_RETURN(options.bench.dtype, ChooseDType(dtype, ModelConfig(), stream.device().type));
  }
  Report report;
  report.options = options;
  report.device = machine.device;
  ASSIGN_OR_RETURN(report.shapes, Shapes(options, HasWarpgroups(stream)));
  RETURN_IF_ERROR(CheckWritable("json", json));
  MeasureLimits(stream, options.bench.dtype, options.bench.sweep_bytes, &report.limits);
  Progress progress("measuring", /*shown=*/true);
  ASSIGN_OR_RETURN(report.timings, MeasureAttention(stream, report.shapes, options.bench,
                                                    [&](double done) { progress.Update(done); }));
  MeasureLimits(stream, options.bench.dtype, options.bench.sweep_bytes, &report.limits);
  report.machine = DescribeMachine(stream, report.limits);
  std::fputs(TableText(report).c_str(), stdout);
  return json.has_value() ? WriteTextFile("json", *json, JsonText(report) + "\n")
                          : absl::OkStatus();
}

}  // namespace polystrate

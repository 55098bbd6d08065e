// polystrate bench capacity: what a token of KV cache takes in each of the MLKV paper's models, and
// how many sequences fit, from the allocators that `serve` uses.

#include <algorithm>
#include <cstdio>

#include "absl/strings/str_cat.h"
#include "absl/strings/str_format.h"
#include "engine/json_writer.h"
#include "engine/paper_variants.h"
#include "kernels/core/status.h"
#include "launcher/bench_command.h"
#include "launcher/capacity.h"

namespace polystrate {
namespace {

constexpr int64_t kMaxKvMemory = int64_t{1} << 50;

struct Row {
  PaperVariant variant;
  Capacity capacity;
};

struct Report {
  CapacityOptions options;
  std::vector<Row> rows;
  std::vector<ResidentSample> samples;
  LinearFit fit;
};

absl::StatusOr<Report> Measure(const std::string& names, bool quick,
                               const CapacityOptions& options) {
  // Of the grid's largest product of owners, heads and tokens: 302 MB and, if quick, 10 MB.
  const double largest = quick ? 12 * 12 * 256.0 : 12 * 12 * 8192.0;
  Report report;
  report.options = options;
  if (quick) report.options.resident_sequences = 1;
  ASSIGN_OR_RETURN(const std::vector<PaperVariant> variants, SelectVariants(names));
  for (const PaperVariant& variant : variants) {
    Row row{variant, {}};
    ASSIGN_OR_RETURN(row.capacity, MeasureCapacity(variant.config, report.options));
    report.rows.push_back(row);
  }
  ASSIGN_OR_RETURN(report.samples, MeasureLinearity(report.rows[0].variant.config.head_dim, largest,
                                                    report.options));
  report.fit = FitResident(report.samples);
  return report;
}

double ResidentPerToken(const Capacity& capacity) {
  return static_cast<double>(capacity.resident_bytes) /
         static_cast<double>(capacity.resident_tokens);
}

// What the slope of FitResident must be: K and V of one head.
int64_t BytesPerHead(const Report& report) {
  return 2 * report.rows[0].variant.config.head_dim * SizeOf(report.options.dtype);
}

std::string TableText(const Report& report) {
  const CapacityOptions& options = report.options;
  std::string text = absl::StrFormat(
      "KV cache of the papers' models, %s, blocks of %d tokens.\n"
      "bytes/token: the pool's bytes over its tokens. resident: what a written pool of %d x %d "
      "tokens\nadded to the process, per token. sequences: of %d tokens, admitted to a pool of %d "
      "bytes. x: over %s.\n\n",
      Name(options.dtype), options.block_size, options.resident_sequences, options.sequence_len,
      options.sequence_len, options.kv_memory, report.rows[0].variant.name);
  absl::StrAppendFormat(&text, "%-17s %3s %3s %12s %12s %8s %12s %8s %10s %8s\n", "variant", "m",
                        "g", "bytes/token", "2*m*g*d*e", "x", "resident", "x", "sequences", "x");
  const Capacity& base = report.rows[0].capacity;
  for (const auto& [variant, capacity] : report.rows) {
    absl::StrAppendFormat(
        &text, "%-17s %3d %3d %12.10g %12d %8.2f %12.1f %8.2f %10d %8.2f\n", variant.name,
        variant.config.sharing.owners().size(), variant.config.num_kv_heads,
        capacity.bytes_per_token, capacity.formula_bytes,
        base.bytes_per_token / capacity.bytes_per_token, ResidentPerToken(capacity),
        ResidentPerToken(base) / ResidentPerToken(capacity), capacity.max_sequences,
        static_cast<double>(capacity.max_sequences) / static_cast<double>(base.max_sequences));
  }
  const LinearFit& fit = report.fit;
  absl::StrAppendFormat(
      &text,
      "\nresident bytes of %d pools = %.0f + %.4f * owners * kv_heads * sequences * length: "
      "2*d*e is %d,\nR^2 = %.9f, the worst pool is off by %.0f bytes\n",
      report.samples.size(), fit.intercept, fit.slope, BytesPerHead(report), fit.r_squared,
      fit.largest_residual);
  return text;
}

void WriteRow(const Row& row, JsonWriter* json) {
  const ModelConfig& config = row.variant.config;
  const Capacity& capacity = row.capacity;
  json->BeginObject().Key("name").String(row.variant.name);
  json->Key("num_key_value_layers").Int(static_cast<int64_t>(config.sharing.owners().size()));
  json->Key("num_key_value_heads").Int(config.num_kv_heads);
  json->Key("bytes_per_token").Double(capacity.bytes_per_token);
  json->Key("formula_bytes_per_token").Int(capacity.formula_bytes);
  json->Key("resident_bytes").Int(capacity.resident_bytes);
  json->Key("resident_tokens").Int(capacity.resident_tokens);
  json->Key("max_sequences").Int(capacity.max_sequences).EndObject();
}

std::string JsonText(const Report& report) {
  const CapacityOptions& options = report.options;
  JsonWriter json;
  json.BeginObject().Key("bench").String("capacity").Key("dtype").String(Name(options.dtype));
  json.Key("block_size").Int(options.block_size).Key("kv_memory").Int(options.kv_memory);
  json.Key("sequence_len").Int(options.sequence_len).Key("variants").BeginArray();
  for (const Row& row : report.rows) WriteRow(row, &json);
  json.EndArray().Key("linearity").BeginObject();
  json.Key("pools").Int(static_cast<int64_t>(report.samples.size()));
  json.Key("slope").Double(report.fit.slope).Key("expected_slope").Int(BytesPerHead(report));
  json.Key("intercept").Double(report.fit.intercept).Key("r_squared").Double(report.fit.r_squared);
  json.Key("largest_residual").Double(report.fit.largest_residual).EndObject().EndObject();
  return json.text();
}

SvgPlot Plot(const Report& report) {
  SvgPlot plot;
  plot.title = absl::StrFormat("Sequences of %d tokens in a KV pool of %.3g GiB",
                               report.options.sequence_len,
                               static_cast<double>(report.options.kv_memory) / (1 << 30));
  plot.x = {absl::StrCat("KV bytes per token, ", Name(report.options.dtype)), /*log=*/true};
  plot.y = {"sequences", /*log=*/true};
  PlotSeries admitted{"admitted by the allocator", {}, /*markers=*/true, /*line=*/false};
  PlotSeries bytes{"pool bytes / bytes of a sequence", {}, /*markers=*/false};
  for (const auto& [variant, capacity] : report.rows) {
    const double x = capacity.bytes_per_token;
    const auto limit = static_cast<double>(report.options.kv_memory);
    bytes.points.push_back({x, limit / (x * static_cast<double>(report.options.sequence_len))});
    auto same = std::find_if(admitted.points.begin(), admitted.points.end(),
                             [x](const PlotPoint& point) { return point.x == x; });
    if (same != admitted.points.end()) {
      absl::StrAppend(&same->label, ", ", variant.name);
    } else {
      admitted.points.push_back({x, static_cast<double>(capacity.max_sequences), variant.name});
    }
  }
  // One line for all, whatever order the papers list their models in.
  std::sort(bytes.points.begin(), bytes.points.end(),
            [](const PlotPoint& a, const PlotPoint& b) { return a.x < b.x; });
  plot.series = {bytes, admitted};
  return plot;
}

}  // namespace

absl::Status BenchCapacity(const Arguments& arguments) {
  FlagSet flags("polystrate bench capacity: KV bytes and sequences that fit, variant by variant");
  CapacityOptions options;
  ReportFlags report_flags;
  std::string variants;
  bool quick = false;
  flags.Add("variants", &variants, "which, as MHA-144,MLKV-12; mlkv or cla for a paper's [mlkv]");
  flags.Add("kv_memory", &options.kv_memory,
            "bytes of the pool that sequences are admitted to; taken, not touched");
  flags.Add("sequence_len", &options.sequence_len, "tokens of a sequence");
  flags.Add("block_size", &options.block_size, "tokens of a KV block");
  flags.Add("quick", &quick, "touch little memory: for tests");
  report_flags.AddTo(&flags);
  RETURN_IF_ERROR(flags.Parse(arguments));
  if (flags.help_requested()) {
    std::fputs(flags.Help().c_str(), stdout);
    return absl::OkStatus();
  }
  RETURN_IF_ERROR(CheckBenchRange("kv_memory", options.kv_memory, 1, kMaxKvMemory));
  RETURN_IF_ERROR(CheckBenchRange("sequence_len", options.sequence_len, 1, 1 << 20));
  RETURN_IF_ERROR(report_flags.Check());
  ASSIGN_OR_RETURN(const Report report, Measure(variants, quick, options));
  std::fputs(TableText(report).c_str(), stdout);
  return report_flags.Write(JsonText(report), Plot(report));
}

}  // namespace polystrate

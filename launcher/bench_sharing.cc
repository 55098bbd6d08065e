// polystrate bench sharing: how fast the MLKV paper's models decode, at one batch and each at the
// largest batch of one KV pool, beside what the bytes that a step must read predict.

#include <algorithm>
#include <cstdio>
#include <cstdlib>

#include "absl/strings/str_cat.h"
#include "absl/strings/str_format.h"
#include "absl/strings/str_join.h"
#include "engine/json_writer.h"
#include "kernels/core/status.h"
#include "launcher/bench_command.h"
#include "launcher/bench_machine.h"
#include "launcher/engine_setup.h"
#include "launcher/progress.h"
#include "launcher/sharing_speed.h"

namespace polystrate {
namespace {

constexpr double kMega = 1e6;

// Names by ascending tokens per second.
std::vector<std::string> Order(const SharingReport& report,
                               const std::function<double(const SharingRow&)>& speed) {
  std::vector<const SharingRow*> rows;
  rows.reserve(report.rows.size());
  for (const SharingRow& row : report.rows) rows.push_back(&row);
  std::stable_sort(rows.begin(), rows.end(), [&speed](const SharingRow* a, const SharingRow* b) {
    return speed(*a) < speed(*b);
  });
  std::vector<std::string> names;
  names.reserve(rows.size());
  for (const SharingRow* row : rows) names.push_back(row->variant.name);
  return names;
}

std::vector<std::string> PredictedOrder(const SharingReport& report) {
  return Order(report, [&report](const SharingRow& row) {
    return row.largest_batch.predicted_tokens_per_second(report.limits);
  });
}

std::vector<std::string> MeasuredOrder(const SharingReport& report) {
  return Order(report, [](const SharingRow& row) { return row.largest_batch.tokens_per_second(); });
}

double ReadShare(const DecodeSpeed& speed, const MachineLimits& limits) {
  return speed.bytes / speed.step.median / limits.read;
}
double MatrixShare(const DecodeSpeed& speed, const MachineLimits& limits) {
  return speed.operations / speed.step.median / limits.matrix;
}

std::string SpeedText(const SharingReport& report, const DecodeSpeed SharingRow::*which) {
  std::string text = absl::StrFormat("%-17s %9s %9s %9s %9s %10s %10s %24s %9s %9s\n", "variant",
                                     "sequences", "kept/tok", "read/tok", "MB/step", "predicted",
                                     "tokens/s", "ms/step (10%..90%)", "of read", "of matrix");
  for (const SharingRow& row : report.rows) {
    const DecodeSpeed& speed = row.*which;
    const Timing& step = speed.step;
    absl::StrAppendFormat(
        &text, "%-17s %9d %9d %9d %9.1f %10.1f %10.1f %8.2f (%6.2f..%7.2f) %8.0f%% %8.0f%%\n",
        row.variant.name, speed.sequences, row.kv_resident_bytes, row.kv_read_bytes,
        speed.bytes / kMega, speed.predicted_tokens_per_second(report.limits),
        speed.tokens_per_second(), step.median * 1e3, step.fastest * 1e3, step.slowest * 1e3,
        100 * ReadShare(speed, report.limits), 100 * MatrixShare(speed, report.limits));
  }
  return text;
}

std::string AttentionText(const SharingReport& report) {
  std::string text =
      absl::StrFormat("%-17s %27s %27s %14s %16s %8s\n", "", "from memory: owner, reuser",
                      "in turn: owner, reuser", "KV written/tok", "K,V proj. op/tok", "of first");
  const auto pair = [](const AttentionTime& time) {
    if (time.reuser == 0) return absl::StrFormat("%8.3f        -        -", time.owner * 1e3);
    return absl::StrFormat("%8.3f %8.3f (%4.2fx)", time.owner * 1e3, time.reuser * 1e3,
                           time.reuser / time.owner);
  };
  for (const SharingRow& row : report.rows) {
    absl::StrAppendFormat(&text, "%-17s %27s %27s %14d %16d %7.1f%%\n", row.variant.name,
                          pair(row.cold_attention), pair(row.ordered_attention),
                          row.kv_written_bytes, row.kv_projection_operations,
                          100.0 * static_cast<double>(row.kv_projection_operations) /
                              static_cast<double>(report.rows[0].kv_projection_operations));
  }
  return text;
}

std::string ScratchText(const SharingReport& report) {
  if (!report.rows[0].scratch_bytes.has_value()) return "";
  return absl::StrCat("MB beside weights and pool: ",
                      absl::StrJoin(report.rows, ", ",
                                    [](std::string* out, const SharingRow& row) {
                                      absl::StrAppendFormat(
                                          out, "%s %.1f", row.variant.name,
                                          static_cast<double>(*row.scratch_bytes) / kMega);
                                    }),
                      "\n");
}

std::string TableText(const SharingReport& report, const std::string& machine) {
  const SharingOptions& o = report.options;
  std::string text = absl::StrFormat(
      "The papers' models with random %s weights; %d random tokens in the cache, then %d greedy "
      "steps.\nOne process, %s.\nkept, read: bytes of KV per token that the pool holds, that the "
      "layers of a step read. predicted: tokens/s if a\nstep only read its weights and cache, at "
      "the limit.\n",
      Name(o.dtype), o.context, o.steps, machine);
  absl::StrAppend(&text, "\nAt equal batch\n", SpeedText(report, &SharingRow::equal_batch));
  absl::StrAppend(&text, "\nAt the largest batch of a KV pool of ", o.kv_memory, " bytes\n",
                  SpeedText(report, &SharingRow::largest_batch), ScratchText(report));
  absl::StrAppend(
      &text, "slowest to fastest, predicted: ", absl::StrJoin(PredictedOrder(report), " "),
      "\nslowest to fastest, measured:  ", absl::StrJoin(MeasuredOrder(report), " "), "\n");
  absl::StrAppend(&text, "\nAttention of one layer at equal batch, ms; work that only owners do\n",
                  AttentionText(report));
  return text;
}

void WriteSpeed(const DecodeSpeed& speed, const MachineLimits& limits, JsonWriter* json) {
  json->BeginObject().Key("sequences").Int(speed.sequences);
  json->Key("tokens_per_s").Double(speed.tokens_per_second());
  json->Key("predicted_tokens_per_s").Double(speed.predicted_tokens_per_second(limits));
  json->Key("median_ms").Double(speed.step.median * 1e3);
  json->Key("p10_ms").Double(speed.step.fastest * 1e3);
  json->Key("p90_ms").Double(speed.step.slowest * 1e3);
  json->Key("bytes_per_step").Double(speed.bytes);
  json->Key("operations_per_step").Double(speed.operations);
  json->Key("read_share").Double(ReadShare(speed, limits));
  json->Key("matrix_share").Double(MatrixShare(speed, limits)).EndObject();
}

void WriteAttention(const AttentionTime& time, JsonWriter* json) {
  json->BeginObject().Key("owner_ms").Double(time.owner * 1e3).Key("reuser_ms");
  if (time.reuser == 0) {
    json->Null();
  } else {
    json->Double(time.reuser * 1e3);
  }
  json->EndObject();
}

void WriteNames(const std::vector<std::string>& names, JsonWriter* json) {
  json->BeginArray();
  for (const std::string& name : names) json->String(name);
  json->EndArray();
}

std::string JsonText(const SharingReport& report, const MachineFlags& machine) {
  const SharingOptions& options = report.options;
  JsonWriter json;
  json.BeginObject().Key("bench").String("sharing").Key("dtype").String(Name(options.dtype));
  json.Key("device").String(machine.device).Key("threads").Int(machine.threads);
  json.Key("context").Int(options.context);
  json.Key("steps").Int(options.steps).Key("kv_memory").Int(options.kv_memory);
  json.Key("read_gb_per_s").Double(report.limits.read / kGiga);
  json.Key("matrix_tflop_per_s").Double(report.limits.matrix / kTera);
  if (report.limits.copy > 0) json.Key("copy_gb_per_s").Double(report.limits.copy / kGiga);
  json.Key("variants").BeginArray();
  for (const SharingRow& row : report.rows) {
    json.BeginObject().Key("name").String(row.variant.name);
    json.Key("kv_resident_bytes_per_token").Int(row.kv_resident_bytes);
    json.Key("kv_read_bytes_per_token").Int(row.kv_read_bytes);
    json.Key("kv_written_bytes_per_token").Int(row.kv_written_bytes);
    json.Key("kv_projection_operations_per_token").Int(row.kv_projection_operations);
    json.Key("equal_batch");
    WriteSpeed(row.equal_batch, report.limits, &json);
    json.Key("largest_batch");
    WriteSpeed(row.largest_batch, report.limits, &json);
    if (row.scratch_bytes.has_value()) json.Key("scratch_bytes").Int(*row.scratch_bytes);
    json.Key("attention_from_memory");
    WriteAttention(row.cold_attention, &json);
    json.Key("attention_in_turn");
    WriteAttention(row.ordered_attention, &json);
    json.EndObject();
  }
  json.EndArray().Key("predicted_order");
  WriteNames(PredictedOrder(report), &json);
  json.Key("measured_order");
  WriteNames(MeasuredOrder(report), &json);
  json.EndObject();
  return json.text();
}

SvgPlot Plot(const SharingReport& report) {
  SvgPlot plot;
  plot.title =
      absl::StrFormat("Decode at a context of %d, one KV pool of %.0f MB", report.options.context,
                      static_cast<double>(report.options.kv_memory) / kMega);
  plot.x = {absl::StrCat("KV bytes that a token keeps, ", Name(report.options.dtype)),
            /*log=*/true};
  plot.y = {"tokens per second", /*log=*/true};
  PlotSeries predicted{"largest batch of the pool, by bytes alone", {}, true, /*line=*/false};
  PlotSeries measured{"largest batch of the pool, measured", {}, true, /*line=*/false};
  PlotSeries equal{absl::StrCat("batch ", report.options.batch, ", measured"), {}, true, false};
  for (const SharingRow& row : report.rows) {
    const auto x = static_cast<double>(row.kv_resident_bytes);
    const DecodeSpeed& largest = row.largest_batch;
    predicted.points.push_back({x, largest.predicted_tokens_per_second(report.limits)});
    measured.points.push_back({x, largest.tokens_per_second(), row.variant.name});
    equal.points.push_back({x, row.equal_batch.tokens_per_second()});
  }
  plot.series = {measured, predicted, equal};
  return plot;
}

// Small enough for a test: what is printed then says nothing.
void MakeQuick(SharingOptions* options) {
  options->batch = 1;
  options->context = 30;
  options->steps = 4;
  options->kv_memory = int64_t{48} * 36864;
  options->attention_repeats = 1;
  options->sweep_bytes = int64_t{1} << 24;
}

absl::Status CheckOptions(const SharingOptions& options) {
  constexpr int64_t kMaxContext = 2048;  // of Pythia
  RETURN_IF_ERROR(CheckBenchRange("steps", options.steps, 4, kMaxContext - 2));
  RETURN_IF_ERROR(CheckBenchRange("largest_batch_steps", options.largest_batch_steps, 4, 2046));
  RETURN_IF_ERROR(CheckBenchRange("context", options.context, 1, kMaxContext - 1 - options.steps));
  RETURN_IF_ERROR(CheckBenchRange("batch", options.batch, 1, 65536));
  return CheckBenchRange("kv_memory", options.kv_memory, 1, int64_t{1} << 50);
}

}  // namespace

absl::Status BenchSharing(const Arguments& arguments) {
  FlagSet flags(
      "polystrate bench sharing: decode speed, at equal batch and under one KV pool; one process");
  SharingOptions options;
  MachineFlags machine;
  ReportFlags report_flags;
  std::string variants;
  std::optional<std::string> dtype;
  bool quick = false;
  flags.Add("variants", &variants, "which, as MHA-144,MLKV-12; mlkv or cla for a paper's [mlkv]");
  flags.Add("batch", &options.batch, "sequences at equal batch");
  flags.Add("context", &options.context, "random tokens in the cache before the first step");
  flags.Add("steps", &options.steps, "greedy steps");
  flags.Add("kv_memory", &options.kv_memory, "bytes of KV cache of each model");
  flags.Add("dtype", &dtype, "bfloat16 or float32 (default: bfloat16)");
  flags.Add("quick", &quick, "a few steps of short sequences, for tests; overrides the above");
  flags.Add("largest_batch_steps", &options.largest_batch_steps,
            "of these, at the largest batch; spread over the same contexts");
  machine.AddTo(&flags);
  report_flags.AddTo(&flags);
  RETURN_IF_ERROR(flags.Parse(arguments));
  if (flags.help_requested()) {
    std::fputs(flags.Help().c_str(), stdout);
    return absl::OkStatus();
  }
  if (quick) MakeQuick(&options);
  ASSIGN_OR_RETURN(Stream stream, machine.Open());
  if (dtype.has_value()) {
    ASSIGN_OR_RETURN(options.dtype, ChooseDType(dtype, ModelConfig(), stream.device().type));
  }
  RETURN_IF_ERROR(CheckOptions(options));
  RETURN_IF_ERROR(report_flags.Check());
  ASSIGN_OR_RETURN(const std::vector<PaperVariant> selected, SelectVariants(variants));
  Progress progress("measuring", /*shown=*/true);
  ASSIGN_OR_RETURN(
      const SharingReport report,
      MeasureSharing(selected, options, &stream, [&](double done) { progress.Update(done); }));
  std::fputs(TableText(report, DescribeMachine(stream, report.limits)).c_str(), stdout);
  return report_flags.Write(JsonText(report, machine), Plot(report));
}

}  // namespace polystrate

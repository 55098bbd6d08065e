#include "launcher/load_report.h"

#include <cmath>

#include "absl/strings/str_cat.h"
#include "absl/strings/str_format.h"
#include "absl/time/clock.h"
#include "engine/json_writer.h"

namespace polystrate {
namespace {

constexpr size_t kWidth = 50;

// `title` in the middle of a line of `fill`.
std::string Heading(const std::string& title, char fill) {
  const size_t left = (kWidth - title.size()) / 2;
  const size_t right = kWidth - title.size() - left;
  return absl::StrCat(std::string(left, fill), title, std::string(right, fill), "\n");
}

std::string Line(const std::string& label, int64_t value) {
  return absl::StrFormat("%-40s %-10d\n", label, value);
}
std::string Line(const std::string& label, double value) {
  return absl::StrFormat("%-40s %-10.2f\n", label, value);
}

// The four that are measured per request or gap, as table and JSON have them.
struct Measure {
  const char* title;
  const char* label;
  const char* key;
  Distribution LoadMetrics::*values;
};
constexpr Measure kMeasures[] = {
    {"Time to First Token", "TTFT", "ttft", &LoadMetrics::ttft_ms},
    {"Time per Output Token (excl. 1st token)", "TPOT", "tpot", &LoadMetrics::tpot_ms},
    {"Inter-token Latency", "ITL", "itl", &LoadMetrics::itl_ms},
    {"End-to-end Latency", "E2EL", "e2el", &LoadMetrics::e2el_ms},
};

// A value of each request, in order.
template <typename Write>
void WriteEach(const char* key, const LoadRun& run, JsonWriter* json, const Write& write) {
  json->Key(key).BeginArray();
  for (const LoadOutcome& outcome : run.outcomes) write(outcome);
  json->EndArray();
}

void WriteRequests(const LoadSetting& setting, const LoadRun& run, JsonWriter* json) {
  WriteEach("input_lens", run, json, [&](const LoadOutcome& outcome) {
    json->Int(outcome.status.ok() ? outcome.prompt_tokens
                                  : setting.input_lens[static_cast<size_t>(outcome.index)]);
  });
  WriteEach("output_lens", run, json, [&](const LoadOutcome& outcome) {
    json->Int(outcome.status.ok() ? outcome.completion_tokens : 0);
  });
  WriteEach("ttfts", run, json, [&](const LoadOutcome& outcome) {
    json->Double(outcome.status.ok() ? TimesOf(outcome).ttft : 0.0);
  });
  WriteEach("itls", run, json, [&](const LoadOutcome& outcome) {
    json->BeginArray();
    if (outcome.status.ok()) {
      for (const double itl : TimesOf(outcome).itls) json->Double(itl);
    }
    json->EndArray();
  });
  WriteEach("start_times", run, json, [&](const LoadOutcome& outcome) {
    json->Double(static_cast<double>(outcome.start_ns - run.begin_ns) * 1e-9);
  });
  WriteEach("generated_texts", run, json,
            [&](const LoadOutcome& outcome) { json->String(outcome.text); });
  WriteEach("errors", run, json, [&](const LoadOutcome& outcome) {
    json->String(outcome.status.ok() ? "" : outcome.status.ToString());
  });
}

void WriteSetting(const LoadSetting& setting, JsonWriter* json) {
  json->Key("date").String(absl::FormatTime("%Y%m%d-%H%M%S", absl::Now(), absl::LocalTimeZone()));
  json->Key("backend").String("polystrate").Key("target").String(setting.target);
  json->Key("model_id").String(setting.model_id).Key("num_prompts").Int(setting.num_prompts);
  json->Key("request_rate");
  if (std::isinf(setting.request_rate)) {
    json->String("inf");
  } else {
    json->Double(setting.request_rate);
  }
  json->Key("burstiness").Double(setting.burstiness).Key("max_concurrency");
  if (setting.max_concurrency.has_value()) {
    json->Int(*setting.max_concurrency);
  } else {
    json->Null();
  }
}

void WriteTotals(const LoadMetrics& metrics, JsonWriter* json) {
  json->Key("duration").Double(metrics.duration);
  json->Key("completed").Int(metrics.completed).Key("failed").Int(metrics.failed);
  json->Key("total_input_tokens").Int(metrics.total_input_tokens);
  json->Key("total_output_tokens").Int(metrics.total_output_tokens);
  json->Key("request_throughput").Double(metrics.request_throughput).Key("request_goodput");
  if (metrics.request_goodput.has_value()) {
    json->Double(*metrics.request_goodput);
  } else {
    json->Null();
  }
  json->Key("output_throughput").Double(metrics.output_throughput);
  json->Key("total_token_throughput").Double(metrics.total_token_throughput);
  json->Key("max_output_tokens_per_s").Double(metrics.max_output_tokens_per_s);
  json->Key("max_concurrent_requests").Int(metrics.max_concurrent_requests);
}

void WriteMeasures(const LoadMetrics& metrics, const std::vector<double>& percents,
                   JsonWriter* json) {
  for (const Measure& measure : kMeasures) {
    const Distribution& values = metrics.*measure.values;
    const auto key = [&measure](const std::string& what) {
      return absl::StrCat(what, "_", measure.key, "_ms");
    };
    json->Key(key("mean")).Double(values.mean).Key(key("median")).Double(values.median);
    json->Key(key("std")).Double(values.std);
    for (size_t i = 0; i < percents.size(); ++i) {
      json->Key(key(absl::StrCat("p", PercentName(percents[i])))).Double(values.percentiles[i]);
    }
  }
}

double CachedShare(const LoadMetrics& metrics) {
  if (metrics.total_input_tokens == 0) return 0.0;
  return static_cast<double>(metrics.cached_prompt_tokens) /
         static_cast<double>(metrics.total_input_tokens);
}

}  // namespace

std::string PercentName(double percent) { return absl::StrCat(percent); }

std::string LoadReport::Table() const {
  std::string text = Heading(" Serving Benchmark Result ", '=');
  absl::StrAppend(&text, Line("Successful requests:", metrics.completed),
                  Line("Failed requests:", metrics.failed));
  if (setting.max_concurrency.has_value()) {
    absl::StrAppend(&text, Line("Maximum request concurrency:", *setting.max_concurrency));
  }
  if (!std::isinf(setting.request_rate)) {
    absl::StrAppend(&text, Line("Request rate configured (RPS):", setting.request_rate));
  }
  absl::StrAppend(&text, Line("Benchmark duration (s):", metrics.duration),
                  Line("Total input tokens:", metrics.total_input_tokens),
                  Line("Total generated tokens:", metrics.total_output_tokens),
                  Line("Request throughput (req/s):", metrics.request_throughput));
  if (metrics.request_goodput.has_value()) {
    absl::StrAppend(&text, Line("Request goodput (req/s):", *metrics.request_goodput));
  }
  absl::StrAppend(
      &text, Line("Output token throughput (tok/s):", metrics.output_throughput),
      Line("Peak output token throughput (tok/s):", metrics.max_output_tokens_per_s),
      Line("Peak concurrent requests:", static_cast<double>(metrics.max_concurrent_requests)),
      Line("Total token throughput (tok/s):", metrics.total_token_throughput));
  for (const Measure& measure : kMeasures) {
    const Distribution& values = metrics.*measure.values;
    const std::string unit = absl::StrCat(" ", measure.label, " (ms):");
    absl::StrAppend(&text, Heading(measure.title, '-'), Line("Mean" + unit, values.mean),
                    Line("Median" + unit, values.median));
    for (size_t i = 0; i < setting.percents.size(); ++i) {
      absl::StrAppend(&text, Line(absl::StrCat("P", PercentName(setting.percents[i]), unit),
                                  values.percentiles[i]));
    }
  }
  absl::StrAppend(&text, Heading("Engine", '-'),
                  Line("Prompt tokens from the prefix cache (%):", 100.0 * CachedShare(metrics)));
  for (size_t stage = 0; stage < bubbles.size(); ++stage) {
    absl::StrAppend(&text,
                    Line(absl::StrCat("Bubble of stage ", stage, " (%):"), 100.0 * bubbles[stage]));
  }
  return text + std::string(kWidth, '=') + "\n";
}

std::string LoadReport::JsonText() const {
  JsonWriter json;
  json.BeginObject();
  WriteSetting(setting, &json);
  WriteTotals(metrics, &json);
  WriteRequests(setting, run, &json);
  WriteMeasures(metrics, setting.percents, &json);
  json.Key("cached_prompt_tokens").Int(metrics.cached_prompt_tokens);
  json.Key("prefix_cache_hit_share").Double(CachedShare(metrics));
  json.Key("max_send_delay_ms").Double(static_cast<double>(run.max_send_delay_ns) * 1e-6);
  json.Key("interrupted").Bool(run.interrupted).Key("stage_bubbles").BeginArray();
  for (const double bubble : bubbles) json.Double(bubble);
  json.EndArray().EndObject();
  return json.text();
}

}  // namespace polystrate

#include "rpc/metric_families.h"

#include <limits>
#include <utility>

#include "absl/status/status.h"
#include "absl/strings/str_cat.h"
#include "absl/time/time.h"
#include "rpc/metric_list.h"

namespace polystrate {
namespace {

using prometheus::ClientMetric;
using prometheus::MetricFamily;
using prometheus::MetricType;
using Label = ClientMetric::Label;

void AddLoad(const EngineLoad& load, MetricList* out) {
  out->Gauge("vllm:num_requests_running", static_cast<double>(load.running_requests),
             "Requests that are being computed.");
  out->Gauge("vllm:num_requests_waiting", static_cast<double>(load.queued_requests),
             "Requests that wait to be computed.");
  const double total = static_cast<double>(load.total_blocks);
  out->Gauge("vllm:kv_cache_usage_perc",
             total > 0 ? static_cast<double>(load.used_blocks) / total : 0.0,
             "Share of KV cache blocks that requests hold; 1 is all of them.");
  out->Gauge("polystrate:running_tokens", static_cast<double>(load.running_tokens),
             "Tokens of running sequences in the KV cache.");
  out->Gauge("polystrate:waiting_tokens", static_cast<double>(load.waiting_tokens),
             "Prompt tokens of sequences that wait.");
  out->Gauge("polystrate:prefill_batch_size", static_cast<double>(load.prefill_batch_size),
             "Sequences of the last step whose prompt it computes.");
  out->Gauge("polystrate:decode_batch_size", static_cast<double>(load.decode_batch_size),
             "Sequences of the last step that go on by a token.");
  const int64_t free = load.total_blocks - load.used_blocks - load.cached_blocks;
  out->Begin("polystrate:kv_blocks", MetricType::Gauge,
             "KV cache blocks: held by sequences, kept for prefixes alone, or free.")
      .Add(static_cast<double>(load.used_blocks), {{"state", "used"}})
      .Add(static_cast<double>(load.cached_blocks), {{"state", "cached"}})
      .Add(static_cast<double>(free), {{"state", "free"}});
}

// No bound is +Inf.
void AddQueueBounds(const MetricsSnapshot& snapshot, MetricList* out) {
  const auto bound = [](int64_t value) {
    return value == std::numeric_limits<int64_t>::max() ? std::numeric_limits<double>::infinity()
                                                        : static_cast<double>(value);
  };
  out->Gauge("polystrate:max_queued_requests", bound(snapshot.max_queued_requests),
             "Sequences that may wait before requests are refused.");
  out->Gauge("polystrate:max_queued_tokens", bound(snapshot.max_queued_tokens),
             "Prompt tokens that may wait before requests are refused.");
}

void AddTokens(const EngineStats& stats, MetricList* out) {
  out->Counter("vllm:prompt_tokens_total", stats.prompt_tokens,
               "Prompt tokens of requests whose prompt has been computed or found in the cache.");
  out->Counter("vllm:generation_tokens_total", stats.generation_tokens, "Tokens generated.");
  out->Counter("vllm:num_preemptions_total", stats.preemptions,
               "Sequences that gave up their KV blocks to others, to be computed again.");
  out->Counter("vllm:prefix_cache_queries_total", stats.prefix_cache_queries,
               "Prompt tokens looked up in the prefix cache.");
  out->Counter("vllm:prefix_cache_hits_total", stats.prefix_cache_hits,
               "Prompt tokens found in the prefix cache.");
  out->Counter("polystrate:kv_evictions_total", stats.evictions,
               "Blocks kept for prefixes that were given to others.");
  out->Counter("polystrate:steps_total", stats.steps, "Steps planned.");
}

void AddTimes(const EngineStats& stats, MetricList* out) {
  out->Distribution("vllm:time_to_first_token_seconds", stats.time_to_first_token,
                    "From arrival to the first token.");
  out->Distribution("vllm:inter_token_latency_seconds", stats.inter_token_latency,
                    "Between one token of an output and the next.");
  out->Distribution("vllm:request_time_per_output_token_seconds", stats.time_per_output_token,
                    "Mean time between tokens of a finished request.");
  out->Distribution("vllm:e2e_request_latency_seconds", stats.e2e_time,
                    "From arrival to the end of a finished request.");
  out->Distribution("vllm:request_queue_time_seconds", stats.queue_time,
                    "From arrival to the first step that computes the request.");
  out->Distribution("vllm:request_prefill_time_seconds", stats.prefill_time,
                    "From the first step to the first token of a finished request.");
  out->Distribution("vllm:request_decode_time_seconds", stats.decode_time,
                    "From the first token to the last of a finished request.");
  out->Distribution("vllm:request_inference_time_seconds", stats.inference_time,
                    "From the first step to the last token of a finished request.");
  out->Distribution("vllm:request_prompt_tokens", stats.prompt_length,
                    "Prompt tokens of a finished request.");
  out->Distribution("vllm:request_generation_tokens", stats.output_length,
                    "Generated tokens of a finished request.");
}

void AddEnds(const MetricsSnapshot& snapshot, MetricList* out) {
  constexpr const char* kReasons[kNumRequestEnds] = {"stop", "length", "abort", "error"};
  out->Begin("vllm:request_success_total", MetricType::Counter,
             "Accepted requests that have ended, by how.");
  for (size_t end = 0; end < kNumRequestEnds; ++end) {
    out->Add(static_cast<double>(snapshot.stats.requests[end]),
             {{"finished_reason", kReasons[end]}});
  }
  out->Begin("polystrate:requests_refused_total", MetricType::Counter,
             "Requests refused before they were accepted, by gRPC status.");
  for (size_t code = 1; code < snapshot.refused.size(); ++code) {
    out->Add(static_cast<double>(snapshot.refused[code]),
             {{"code", absl::StatusCodeToString(static_cast<absl::StatusCode>(code))}});
  }
  out->Counter("polystrate:request_log_lines_total", snapshot.log_lines_written,
               "Lines that the request log has taken.");
  out->Counter("polystrate:request_log_dropped_total", snapshot.log_lines_dropped,
               "Lines lost because the request log's file was full or too slow.");
}

void AddRanks(const std::vector<RankStatus>& ranks, MetricList* out) {
  if (ranks.empty()) return;  // a family needs a sample
  const auto add = [&](const char* name, MetricType type, const char* help, auto value) {
    out->Begin(name, type, help);
    for (const RankStatus& rank : ranks) {
      out->Add(value(rank), {{"rank", absl::StrCat(rank.rank)},
                             {"stage", absl::StrCat(rank.pp_rank)},
                             {"host", rank.host}});
    }
  };
  add("polystrate:stage_busy_seconds_total", MetricType::Counter,
      "Time that the rank was in steps.",
      [](const RankStatus& rank) { return absl::ToDoubleSeconds(rank.busy()); });
  add("polystrate:stage_waiting_seconds_total", MetricType::Counter,
      "Time that the engine had a step under way and the rank had nothing to do.",
      [](const RankStatus& rank) { return absl::ToDoubleSeconds(rank.waiting()); });
  add("polystrate:stage_bubble_share", MetricType::Gauge,
      "Waiting as a share of busy and waiting, since the start.",
      [](const RankStatus& rank) { return rank.bubble_share(); });
  add("polystrate:stage_steps_total", MetricType::Counter, "Steps that the rank has done.",
      [](const RankStatus& rank) { return static_cast<double>(rank.report.steps); });
  add("polystrate:rank_silent_seconds", MetricType::Gauge, "Time since the rank was last heard of.",
      [](const RankStatus& rank) { return absl::ToDoubleSeconds(rank.silent); });
}

void AddState(EngineState state, MetricList* out) {
  constexpr std::pair<EngineState, const char*> kStates[] = {
      {EngineState::kStarting, "starting"}, {EngineState::kReady, "ready"},
      {EngineState::kDegraded, "degraded"}, {EngineState::kDraining, "draining"},
      {EngineState::kStopped, "stopped"},
  };
  out->Begin("polystrate:engine_state", MetricType::Gauge, "1 for the state the engine is in.");
  for (const auto& [value, name] : kStates) out->Add(value == state ? 1.0 : 0.0, {{"state", name}});
}

}  // namespace

MetricsSnapshot TakeMetrics(Engine& engine, const RequestLog& log) {
  MetricsSnapshot snapshot;
  snapshot.model_name = engine.options().model_id;
  snapshot.state = engine.state();
  snapshot.max_queued_requests = engine.options().max_queued_requests;
  snapshot.max_queued_tokens = engine.options().max_queued_tokens;
  snapshot.load = engine.load();
  snapshot.stats = engine.stats();
  snapshot.ranks = engine.ranks().Read();
  snapshot.refused = log.num_refused();
  snapshot.log_lines_written = log.num_written();
  snapshot.log_lines_dropped = log.num_dropped();
  return snapshot;
}

std::vector<MetricFamily> MetricFamilies(const MetricsSnapshot& snapshot) {
  MetricList families({{"model_name", snapshot.model_name}});
  AddLoad(snapshot.load, &families);
  AddQueueBounds(snapshot, &families);
  AddTokens(snapshot.stats, &families);
  AddTimes(snapshot.stats, &families);
  AddEnds(snapshot, &families);
  AddRanks(snapshot.ranks, &families);
  AddState(snapshot.state, &families);
  return families.Take();
}

}  // namespace polystrate

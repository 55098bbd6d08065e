#include "rpc/coordinator/coordinator_metrics.h"

#include "prometheus/text_serializer.h"
#include "rpc/metric_list.h"

namespace polystrate {
namespace {

using Views = std::vector<EnginePool::View>;
using Type = MetricList::Type;

void AddCounters(CallRegistry& registry, MetricList* out) {
  const CoordinatorStats& stats = registry.stats();
  const auto counter = [out](const char* name, const std::atomic<uint64_t>& count,
                             const char* help) {
    out->Counter(name, static_cast<int64_t>(count.load()), help);
  };
  counter("polystrate:coordinator_requests_total", stats.requests,
          "Requests that were sent to an engine.");
  counter("polystrate:coordinator_refused_total", stats.refused,
          "Requests that no engine accepted.");
  counter("polystrate:coordinator_finished_total", stats.finished,
          "Requests whose stream ended whole.");
  counter("polystrate:coordinator_failed_total", stats.failed,
          "Accepted requests that ended with an error.");
  counter("polystrate:coordinator_carried_total", stats.carried,
          "Times that a request went on at another engine.");
  counter("polystrate:coordinator_quarantined_total", stats.quarantined,
          "Requests given up because engines were lost while they worked on them.");
  counter("polystrate:coordinator_tokens_total", stats.tokens, "Tokens that went through.");
  if (const RequestLog* log = registry.log(); log != nullptr && log->has_file()) {
    out->Counter("polystrate:request_log_lines_total", log->num_written(),
                 "Lines of the request log.");
    out->Counter("polystrate:request_log_dropped_total", log->num_dropped(),
                 "Lines that the request log's disk did not take.");
  }
  out->Gauge("polystrate:coordinator_streams", static_cast<double>(registry.num_calls()),
             "Requests that are open.");
  out->Gauge("polystrate:coordinator_waiting", static_cast<double>(registry.num_waiting()),
             "Open requests that wait for an engine.");
}

// One sample an engine.
template <typename Value>
void AddEach(const Views& engines, const char* name, Type type, const char* help,
             const Value& value, MetricList* out) {
  out->Begin(name, type, help);
  for (const EnginePool::View& engine : engines) {
    out->Add(static_cast<double>(value(engine)), {{"engine", engine.status.target()}});
  }
}

void AddEngines(const Views& engines, MetricList* out) {
  AddEach(
      engines, "polystrate:engine_serving", Type::Gauge, "1: requests go there.",
      [](const auto& engine) { return engine.status.serving(); }, out);
  AddEach(
      engines, "polystrate:engine_streams", Type::Gauge,
      "Requests of this coordinator that are there.",
      [](const auto& engine) { return engine.status.streams(); }, out);
  AddEach(
      engines, "polystrate:engine_outstanding_tokens", Type::Gauge,
      "About what those have still to do.",
      [](const auto& engine) { return engine.status.outstanding_tokens(); }, out);
  AddEach(
      engines, "polystrate:engine_lost_total", Type::Counter, "Times that it was lost.",
      [](const auto& engine) { return engine.status.times_lost(); }, out);
}

void AddSums(const Views& engines, MetricList* out) {
  double running = 0;
  double waiting = 0;
  double used = 0;
  double total = 0;
  for (const EnginePool::View& engine : engines) {
    if (!engine.status.serving()) continue;
    running += static_cast<double>(engine.status.running_requests());
    waiting += static_cast<double>(engine.status.queued_requests());
    used += static_cast<double>(engine.status.used_kv_blocks());
    total += static_cast<double>(engine.status.total_kv_blocks());
  }
  out->Gauge("vllm:num_requests_running", running, "Requests that are being computed.");
  out->Gauge("vllm:num_requests_waiting", waiting, "Requests that wait to be computed.");
  out->Gauge("vllm:kv_cache_usage_perc", total > 0 ? used / total : 0.0,
             "Share of KV cache blocks that requests hold; 1 is all of them.");
}

}  // namespace

std::string CoordinatorMetrics(CallRegistry& registry) {
  MetricList list({});
  const Views engines = registry.pool().Read();
  AddCounters(registry, &list);
  AddEngines(engines, &list);
  AddSums(engines, &list);
  return prometheus::TextSerializer().Serialize(list.Take());
}

}  // namespace polystrate

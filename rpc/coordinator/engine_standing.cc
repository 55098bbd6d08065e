// What an EngineLink tells of its engine.
#include <algorithm>

#include "rpc/coordinator/engine_link.h"

namespace polystrate {
namespace {

// Counts of other threads may be seen half way.
uint64_t NotBelowZero(int64_t value) { return static_cast<uint64_t>(std::max<int64_t>(value, 0)); }

}  // namespace

EngineLink::Standing EngineLink::standing() const {
  absl::MutexLock lock(&mutex_);
  Standing standing;
  if (serving_) standing.connection = connection_;
  standing.process = process_;
  standing.load = foreign_ + std::max<int64_t>(outstanding_, 0);
  return standing;
}

bool EngineLink::serving() const {
  absl::MutexLock lock(&mutex_);
  return serving_;
}

std::string EngineLink::model() const {
  absl::MutexLock lock(&mutex_);
  return model_.served_model_name().empty() ? model_.model_id() : model_.served_model_name();
}

bool EngineLink::HasModel(const std::string& name) const {
  absl::MutexLock lock(&mutex_);
  const auto& aliases = model_.served_model_aliases();
  return name == model_.model_id() || name == model_.served_model_name() ||
         std::find(aliases.begin(), aliases.end(), name) != aliases.end();
}

EngineView EngineLink::Read() const {
  absl::MutexLock lock(&mutex_);
  EngineView view;
  view.load = load_;
  view.server = server_;
  view.model = model_;
  view.stages = stages_;
  v1::EngineStatus& status = view.status;
  status.set_target(target_);
  status.set_model(model_.served_model_name().empty() ? model_.model_id()
                                                      : model_.served_model_name());
  status.set_serving(serving_);
  status.set_problem(serving_ ? "" : problem_);
  status.set_streams(NotBelowZero(streams_));
  status.set_outstanding_tokens(NotBelowZero(outstanding_));
  status.set_running_requests(load_.running_requests());
  status.set_queued_requests(load_.queued_requests());
  status.set_used_kv_blocks(load_.used_kv_blocks());
  status.set_total_kv_blocks(load_.total_kv_blocks());
  status.set_times_lost(times_lost_);
  return view;
}

void EngineLink::Count(const Work& change) {
  streams_ += change.streams;
  outstanding_ += change.outstanding;
  held_ += change.held;
}

}  // namespace polystrate

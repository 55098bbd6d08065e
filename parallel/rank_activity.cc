#include "parallel/rank_activity.h"

#include <chrono>

#include "absl/strings/str_cat.h"
#include "absl/strings/str_format.h"

namespace polystrate {
namespace {

int64_t NowNs() {
  return std::chrono::duration_cast<std::chrono::nanoseconds>(
             std::chrono::steady_clock::now().time_since_epoch())
      .count();
}

const char* Name(GroupName group) {
  switch (group) {
    case GroupName::kTp:
      return "tp";
    case GroupName::kPp:
      return "pp";
    case GroupName::kControl:
      return "control";
    case GroupName::kTokens:
      return "tokens";
  }
  return "?";
}

const char* Name(Operation operation) {
  switch (operation) {
    case Operation::kNone:
      return "nothing";
    case Operation::kAllReduce:
      return "all-reduce";
    case Operation::kBroadcast:
      return "broadcast";
    case Operation::kGather:
      return "gather";
    case Operation::kSend:
      return "send";
    case Operation::kReceive:
      return "receive";
  }
  return "?";
}

}  // namespace

std::string Describe(const RankReport& report, int pp_size) {
  const std::string operation = absl::StrCat(Name(report.operation), " ", report.operation_number,
                                             " of ", Name(report.group));
  const char* state = report.in_step ? "computing" : "outside a step";
  std::string text =
      absl::StrFormat("%s for %.1f s", report.in_operation ? "in " + operation : state,
                      static_cast<double>(report.since_ns) * 1e-9);
  if (report.in_step || report.steps > 0) {
    absl::StrAppend(&text, report.in_step ? ", step " : ", last step ", report.step_id,
                    ", micro-batch ", report.step_id % pp_size, " (", report.num_seqs,
                    " sequences, ", report.num_tokens, " tokens)");
  }
  if (!report.in_operation && report.operation != Operation::kNone) {
    absl::StrAppend(&text, ", last ", operation);
  }
  return text;
}

RankActivity::RankActivity() : changed_ns_(NowNs()), work_from_ns_(changed_ns_) {}

bool RankActivity::WaitsForStageBefore() const {
  return report_.in_operation && report_.operation == Operation::kReceive &&
         report_.group == GroupName::kPp;
}

void RankActivity::BeginStep(uint64_t step_id, int64_t num_seqs, int64_t num_tokens) {
  MutexLock lock(&mutex_);
  report_.step_id = step_id;
  report_.num_seqs = static_cast<int32_t>(num_seqs);
  report_.num_tokens = static_cast<int32_t>(num_tokens);
  report_.in_step = true;
  changed_ns_ = work_from_ns_ = NowNs();
}

void RankActivity::EndStep() {
  MutexLock lock(&mutex_);
  changed_ns_ = NowNs();
  report_.busy_ns += changed_ns_ - work_from_ns_;
  report_.in_step = false;
  ++report_.steps;
  report_.tokens += report_.num_tokens;
}

void RankActivity::BeginOperation(GroupName group, Operation operation) {
  MutexLock lock(&mutex_);
  const auto thawed = [this]() ABSL_EXCLUSIVE_LOCKS_REQUIRED(mutex_) { return !frozen_; };
  mutex_.Await(thawed);
  if (report_.in_operation) return;
  report_.in_operation = true;
  report_.operation = operation;
  report_.group = group;
  report_.operation_number = ++operation_numbers_[static_cast<int>(group)];
  changed_ns_ = NowNs();
  if (report_.in_step && WaitsForStageBefore()) report_.busy_ns += changed_ns_ - work_from_ns_;
}

void RankActivity::EndOperation() {
  MutexLock lock(&mutex_);
  changed_ns_ = NowNs();
  if (report_.in_step && WaitsForStageBefore()) work_from_ns_ = changed_ns_;
  report_.in_operation = false;
}

void RankActivity::Freeze() {
  MutexLock lock(&mutex_);
  frozen_ = true;
}

RankReport RankActivity::Read() const {
  MutexLock lock(&mutex_);
  RankReport report = report_;
  const int64_t now_ns = NowNs();
  report.since_ns = now_ns - changed_ns_;
  if (report.in_step && !WaitsForStageBefore()) report.busy_ns += now_ns - work_from_ns_;
  return report;
}

}  // namespace polystrate

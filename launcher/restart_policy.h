// RestartPolicy: whether and when a process that has ended is started again. Pure.
#pragma once

#include <optional>

#include "absl/time/time.h"
#include "launcher/cluster_file.h"

namespace polystrate {

class RestartPolicy {
 public:
  explicit RestartPolicy(const RestartOptions& options) : options_(options) {}

  enum class Verdict { kRestart, kMistake, kGiveUp };
  // Of a process that has served for `served`, or never did (nullopt).
  Verdict OnExit(int exit_code, std::optional<absl::Duration> served);
  // After kRestart: how long to wait.
  absl::Duration delay() const { return delay_; }

 private:
  const RestartOptions options_;
  bool has_served_ = false;  // so what it was told is right
  int64_t tries_ = 0;        // since it was healthy
  absl::Duration delay_;
};

}  // namespace polystrate

#include "launcher/restart_policy.h"

#include <algorithm>

namespace polystrate {
namespace {

// The program's own code for what the user can mend, and the shell's for a program that cannot be
// run or is not there.
bool IsMistake(int exit_code) { return exit_code == 2 || exit_code == 126 || exit_code == 127; }

}  // namespace

RestartPolicy::Verdict RestartPolicy::OnExit(int exit_code, std::optional<absl::Duration> served) {
  has_served_ = has_served_ || served.has_value();
  // What has served with the same words before was told no nonsense: a model's folder may be away
  // for a while.
  if (IsMistake(exit_code) && !has_served_) return Verdict::kMistake;
  if (served.has_value() && *served >= options_.healthy) tries_ = 0;
  if (options_.tries > 0 && tries_ >= options_.tries) return Verdict::kGiveUp;
  delay_ = tries_ == 0 ? options_.first : std::min(2 * delay_, options_.most);
  ++tries_;
  return Verdict::kRestart;
}

}  // namespace polystrate

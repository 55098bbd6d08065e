#include "launcher/culprit.h"

#include <algorithm>

#include "absl/strings/str_cat.h"
#include "absl/strings/str_format.h"

namespace polystrate {
namespace {

// A rank that lives is never silent for so long, unless its host is very busy.
constexpr absl::Duration kSilent = absl::Seconds(2);

// Ranks take plans in the order of their ids.
bool HasBegun(const RankReport& report, uint64_t step_id) {
  return (report.in_step || report.steps > 0) && report.step_id >= step_id;
}
bool HasDone(const RankReport& report, uint64_t step_id) {
  return HasBegun(report, step_id) && (report.step_id > step_id || !report.in_step);
}

// Whether a rank of the same stage has not yet come to the call that `status` is in.
bool PeerIsBehind(const RankStatus& status, const std::vector<RankStatus>& ranks) {
  const RankReport& mine = status.report;
  return std::any_of(ranks.begin(), ranks.end(), [&](const RankStatus& peer) {
    const RankReport& theirs = peer.report;
    if (peer.pp_rank != status.pp_rank || peer.rank == status.rank) return false;
    if (theirs.step_id != mine.step_id || !theirs.in_step) return !HasDone(theirs, mine.step_id);
    return theirs.group != GroupName::kTp || theirs.operation_number < mine.operation_number;
  });
}

// Whether the rank waits for what is still to come.
bool HasReasonToWait(const RankStatus& status, const std::vector<RankStatus>& ranks,
                     const std::optional<PlansUnderWay>& plans) {
  const RankReport& report = status.report;
  if (!report.in_operation) return false;
  if (report.group == GroupName::kTp) return PeerIsBehind(status, ranks);
  if (report.operation != Operation::kReceive) return false;
  switch (report.group) {
    case GroupName::kControl:
      return !plans.has_value() || HasDone(report, plans->newest_step_id);
    case GroupName::kPp:
      return std::any_of(ranks.begin(), ranks.end(), [&](const RankStatus& before) {
        return before.pp_rank == status.pp_rank - 1 && before.tp_rank == status.tp_rank &&
               !HasDone(before.report, report.step_id);
      });
    case GroupName::kTokens:  // rank 0, from the first rank of the last stage
    case GroupName::kTp:
      break;
  }
  const int last_stage = ranks.back().pp_rank;
  return std::any_of(ranks.begin(), ranks.end(), [&](const RankStatus& sampler) {
    return sampler.pp_rank == last_stage && sampler.tp_rank == 0 && plans.has_value() &&
           !HasDone(sampler.report, plans->oldest_step_id);
  });
}

}  // namespace

int FindCulprit(const std::vector<RankStatus>& ranks, const std::optional<PlansUnderWay>& plans) {
  const auto blame = [&](const RankStatus& status) {
    const absl::Duration since = absl::Nanoseconds(status.report.since_ns);
    if (status.silent >= kSilent) return std::pair(2, status.silent);
    return std::pair(HasReasonToWait(status, ranks, plans) ? 0 : 1, since);
  };
  const auto culprit = std::max_element(
      ranks.begin(), ranks.end(),
      [&](const RankStatus& a, const RankStatus& b) { return blame(a) < blame(b); });
  return culprit->rank;
}

std::string Describe(const RankStatus& status, int pp_size) {
  std::string text = absl::StrFormat("rank %d (stage %d, tp %d) on %s, pid %d: ", status.rank,
                                     status.pp_rank, status.tp_rank, status.host, status.pid);
  if (status.silent >= kSilent) {
    absl::StrAppendFormat(&text, "silent for %.1f s, before that ",
                          absl::ToDoubleSeconds(status.silent));
  }
  return text + Describe(status.report, pp_size);
}

}  // namespace polystrate

#include "launcher/load_stages.h"

#include <algorithm>

#include "absl/time/clock.h"
#include "absl/time/time.h"
#include "polystrate_admin.grpc.pb.h"

namespace polystrate {
namespace {

constexpr absl::Duration kAge = absl::Milliseconds(600);  // of the engine's figures, and some

std::vector<StageTime> AskOnce(const std::shared_ptr<grpc::Channel>& channel) {
  constexpr uint32_t kMaxStages = 4096;  // what a strange server may make this allocate
  grpc::ClientContext context;
  context.set_deadline(absl::ToChronoTime(absl::Now() + absl::Seconds(10)));
  v1::GetStagesResponse response;
  const grpc::Status status =
      v1::Admin::NewStub(channel)->GetStages(&context, v1::GetStagesRequest(), &response);
  std::vector<StageTime> stages;
  if (!status.ok()) return stages;
  for (const v1::RankActivity& rank : response.ranks()) {
    if (rank.pp_rank() >= kMaxStages) return {};
    stages.resize(std::max<size_t>(stages.size(), rank.pp_rank() + 1));
    stages[rank.pp_rank()].busy_seconds += rank.busy_seconds();
    stages[rank.pp_rank()].waiting_seconds += rank.waiting_seconds();
  }
  return stages;
}

}  // namespace

std::vector<StageTime> AskStageTimes(const std::shared_ptr<grpc::Channel>& channel) {
  std::vector<StageTime> stages = AskOnce(channel);
  if (stages.empty()) return stages;
  absl::SleepFor(kAge);
  return AskOnce(channel);
}

std::vector<double> BubbleShares(const std::vector<StageTime>& before,
                                 const std::vector<StageTime>& after) {
  std::vector<double> shares;
  if (before.size() != after.size()) return shares;
  for (size_t i = 0; i < after.size(); ++i) {
    const double busy = after[i].busy_seconds - before[i].busy_seconds;
    const double waiting = after[i].waiting_seconds - before[i].waiting_seconds;
    if (busy < 0 || waiting < 0) return {};  // the engine was started anew meanwhile
    shares.push_back(busy + waiting > 0 ? waiting / (busy + waiting) : 0.0);
  }
  return shares;
}

}  // namespace polystrate

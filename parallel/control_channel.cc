#include "parallel/control_channel.h"

#include <string>

#include "absl/strings/str_cat.h"

namespace polystrate {
namespace {

// One byte of code, then the message.
std::vector<uint8_t> ToBytes(const absl::Status& status) {
  std::string bytes(1, static_cast<char>(status.code()));
  bytes += std::string(status.message());
  return {bytes.begin(), bytes.end()};
}

absl::Status FromBytes(const std::vector<uint8_t>& bytes) {
  CHECK(!bytes.empty());
  return absl::Status(static_cast<absl::StatusCode>(bytes[0]),
                      std::string(bytes.begin() + 1, bytes.end()));
}

}  // namespace

void ControlChannel::BroadcastPlan(const std::vector<uint8_t>& plan) {
  for (int rank = 1; rank < control_.size(); ++rank) SendBytes(control_, plan, rank);
}

std::vector<uint8_t> ControlChannel::ReceivePlan() { return RecvBytes(control_, 0); }

bool ControlChannel::PlanHasArrived() { return control_.Probe(/*source=*/0).has_value(); }

void ControlChannel::SendResult(const std::vector<uint8_t>& result) {
  SendBytes(tokens_, result, 0);
}

std::vector<uint8_t> ControlChannel::ReceiveResult() {
  return RecvBytes(tokens_, topology_.sampler_rank());
}

std::vector<std::vector<uint8_t>> ControlChannel::GatherBytes(const std::vector<uint8_t>& bytes) {
  SendBytes(control_, bytes, 0);
  std::vector<std::vector<uint8_t>> all;
  if (topology_.rank != 0) return all;
  for (int rank = 0; rank < control_.size(); ++rank) all.push_back(RecvBytes(control_, rank));
  return all;
}

absl::Status ControlChannel::Agree(const absl::Status& mine) {
  const auto all = GatherBytes(ToBytes(mine));
  absl::Status agreed = absl::OkStatus();
  for (size_t rank = 0; rank < all.size() && agreed.ok(); ++rank) {
    agreed = FromBytes(all[rank]);
    if (!agreed.ok() && all.size() > 1) {
      agreed = absl::Status(agreed.code(), absl::StrCat("rank ", rank, ": ", agreed.message()));
    }
  }
  if (topology_.rank != 0) return FromBytes(ReceivePlan());
  BroadcastPlan(ToBytes(agreed));
  return agreed;
}

}  // namespace polystrate

#include "rpc/coordinator/engine_lease.h"

#include <algorithm>
#include <utility>

#include "rpc/coordinator/engine_connection.h"
#include "rpc/coordinator/engine_link.h"

namespace polystrate {

EngineLease::EngineLease(std::shared_ptr<EngineLink> link,
                         std::shared_ptr<EngineConnection> connection, const RouteHint& hint,
                         int64_t cached_tokens)
    : link_(std::move(link)),
      connection_(std::move(connection)),
      prompt_tokens_(std::max<int64_t>(hint.prompt_tokens - cached_tokens, 0)),
      output_tokens_(std::max<int64_t>(hint.output_tokens, 0)),
      held_tokens_(std::max<int64_t>(hint.prompt_tokens, 0)) {
  link_->Count(
      {.streams = 1, .outstanding = prompt_tokens_ + output_tokens_, .held = held_tokens_});
}

EngineLease::EngineLease(EngineLease&&) noexcept = default;

EngineLease& EngineLease::operator=(EngineLease&& other) noexcept {
  if (this == &other) return *this;
  Return();
  link_ = std::move(other.link_);
  connection_ = std::move(other.connection_);
  prompt_tokens_ = other.prompt_tokens_;
  output_tokens_ = other.output_tokens_;
  held_tokens_ = other.held_tokens_;
  return *this;
}

EngineLease::~EngineLease() { Return(); }

void EngineLease::Return() {
  if (link_ == nullptr) return;
  link_->Count(
      {.streams = -1, .outstanding = -prompt_tokens_ - output_tokens_, .held = -held_tokens_});
}

const std::string& EngineLease::target() const { return link_->target(); }

openengine::v1::Inference::Stub& EngineLease::inference() { return connection_->inference(); }

openengine::v1::Control::Stub& EngineLease::control() { return connection_->control(); }

void EngineLease::OnTokens(int64_t n) {
  if (n <= 0) return;
  const int64_t done = prompt_tokens_ + std::min(n, output_tokens_);
  prompt_tokens_ = 0;
  output_tokens_ -= std::min(n, output_tokens_);
  held_tokens_ += n;
  link_->Count({.streams = 0, .outstanding = -done, .held = n});
}

void EngineLease::ReportLost(const absl::Status& why) { link_->Suspect(connection_.get(), why); }

}  // namespace polystrate

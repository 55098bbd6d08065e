// SilentGroup: a group of one rank whose calls do nothing, for tests of who watches over groups.
#pragma once

#include <cstdint>
#include <optional>

#include "parallel/communicator.h"

namespace polystrate {

class SilentGroup : public Communicator {
 public:
  int rank() const override { return 0; }
  int size() const override { return 1; }
  void AllReduceSum(const Stream&, const Tensor&) override {}
  void Broadcast(const Stream&, const Tensor&, int) override {}
  void Gather(const Stream&, const Tensor&, const Tensor&, int) override {}
  void Send(const Stream&, const Tensor&, int) override {}
  void Recv(const Stream&, const Tensor&, int) override {}
  std::optional<int64_t> Probe(int) override { return std::nullopt; }
};

}  // namespace polystrate

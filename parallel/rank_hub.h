// RankHub: rank 0's side of the rank monitor. Listens, fills the RankTable with what the ranks say,
// tells them that it lives, and notices who is gone.
#pragma once

#include <memory>
#include <string>
#include <thread>
#include <vector>

#include "absl/status/statusor.h"
#include "parallel/monitor_options.h"
#include "parallel/monitor_wire.h"
#include "parallel/rank_table.h"

namespace polystrate {

class RankHub {
 public:
  // `activity` is rank 0's own. Both it and `table` must outlive the hub. UNAVAILABLE when no port
  // can be had.
  static absl::StatusOr<std::unique_ptr<RankHub>> Listen(bool loopback,
                                                         const RankActivity& activity,
                                                         RankTable* table,
                                                         const MonitorOptions& options);
  ~RankHub();

  const MonitorAddress& address() const { return address_; }

 private:
  struct Peer {
    FrameConnection connection;
    int rank = -1;  // until it has said the secret
    bool left = false;
    absl::Duration silent;
  };

  RankHub(Socket listener, const RankActivity& activity, RankTable* table,
          const MonitorOptions& options);
  void Run();
  void Accept();
  void Read(Peer* peer);
  bool Understand(const Frame& frame, Peer* peer);
  void Beat(absl::Duration awake);
  void Leave(Peer* peer, const std::string& how);
  void Lose(int rank, const std::string& how);

  const MonitorOptions options_;
  const RankActivity& activity_;
  RankTable& table_;
  MonitorAddress address_;
  Socket listener_;
  Wakeup stop_;
  std::vector<Peer> peers_;  // only the thread, like the next
  bool ending_ = false;
  std::thread thread_;
};

}  // namespace polystrate

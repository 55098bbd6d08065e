// What rank monitors say to each other: frames of one size over TCP, apart from MPI, which only a
// rank's main thread may speak and which never tells of a peer that is gone.
#pragma once

#include <array>
#include <cstdint>
#include <string>
#include <vector>

#include "parallel/rank_activity.h"
#include "parallel/socket.h"

namespace polystrate {

using MonitorSecret = std::array<uint8_t, 16>;

// Where rank 0 listens. The ranks learn it over the control channel, so that whoever knows the
// secrets is one of them: rank 0 greets with the first, a rank answers with the second.
struct MonitorAddress {
  std::vector<std::string> hosts;  // numeric; a rank takes the first that greets it rightly
  int port = 0;
  MonitorSecret greeting = {};
  MonitorSecret answer = {};
  std::string host_name;  // rank 0's, for messages; with its process id
  int64_t pid = 0;

  std::vector<uint8_t> ToBytes() const;
  static MonitorAddress FromBytes(const std::vector<uint8_t>& bytes);
};

enum class FrameType : uint8_t {
  kHello = 1,   // the first of a side: its secret; of a rank, who it is
  kReport = 2,  // a rank lives and does this
  kAlive = 3,   // rank 0 lives
  kBye = 4,     // the last of a side: it leaves as it should
  kMissed = 5,  // the last of a rank: it has had no word from rank 0 and ends the job
};
struct Frame {
  FrameType type = FrameType::kAlive;
  MonitorSecret secret = {};
  int32_t rank = 0;
  int64_t pid = 0;
  char host[64] = {};  // ends with a zero
  RankReport report;
};

MonitorSecret RandomSecret();

// One side of a connection. Nothing blocks.
class FrameConnection {
 public:
  explicit FrameConnection(Socket socket) : socket_(std::move(socket)) {}

  int fd() const { return socket_.fd(); }
  // Of a peer that does not read, frames go lost. A broken connection shows in Receive.
  void Send(const Frame& frame);
  // Appends what has arrived, some frames at most; false when the peer has closed, nothing of what
  // it said before being left, or the connection is broken.
  bool Receive(std::vector<Frame>* frames);

 private:
  Socket socket_;
  std::vector<uint8_t> unsent_;   // the end of a frame
  std::vector<uint8_t> partial_;  // the beginning of one that arrives
};

}  // namespace polystrate

#include "parallel/rank_hub.h"

#include <unistd.h>

#include <algorithm>
#include <cstring>
#include <utility>

#include "absl/strings/str_cat.h"
#include "absl/time/clock.h"
#include "kernels/core/status.h"
#include "parallel/host.h"

namespace polystrate {
namespace {

// Who connects has this long to say who it is, and that many may try at once.
constexpr absl::Duration kHelloTimeout = absl::Seconds(5);
constexpr int kMaxStrangers = 64;

Frame FrameOf(FrameType type) {
  Frame frame;
  frame.type = type;
  return frame;
}

}  // namespace

absl::StatusOr<std::unique_ptr<RankHub>> RankHub::Listen(bool loopback,
                                                         const RankActivity& activity,
                                                         RankTable* table,
                                                         const MonitorOptions& options) {
  int port = 0;
  Socket listener(-1);  // alone there is nobody to listen to
  if (table->num_ranks() > 1) {
    ASSIGN_OR_RETURN(listener, Socket::Listen(loopback, &port));
  }
  std::unique_ptr<RankHub> hub(new RankHub(std::move(listener), activity, table, options));
  hub->address_.hosts = loopback ? std::vector<std::string>{"127.0.0.1"} : HostAddresses();
  hub->address_.port = port;
  hub->address_.greeting = RandomSecret();
  hub->address_.answer = RandomSecret();
  hub->address_.host_name = HostName();
  hub->address_.pid = getpid();
  table->SetPlace(0, HostName(), getpid());
  hub->thread_ = std::thread(&RankHub::Run, hub.get());
  return hub;
}

RankHub::RankHub(Socket listener, const RankActivity& activity, RankTable* table,
                 const MonitorOptions& options)
    : options_(options), activity_(activity), table_(*table), listener_(std::move(listener)) {}

RankHub::~RankHub() {
  stop_.Set();
  thread_.join();
}

void RankHub::Run() {
  AwakeClock clock;
  absl::Time next_beat = absl::Now();
  while (!stop_.is_set()) {
    std::vector<pollfd> inputs = {{stop_.fd(), POLLIN, 0}, {listener_.fd(), POLLIN, 0}};
    for (const Peer& peer : peers_) inputs.push_back({peer.connection.fd(), POLLIN, 0});
    WaitForInput(&inputs, next_beat - absl::Now());
    for (Peer& peer : peers_) Read(&peer);
    if (ending_) break;
    const auto left =
        std::remove_if(peers_.begin(), peers_.end(), [](const Peer& peer) { return peer.left; });
    peers_.erase(left, peers_.end());
    Accept();
    if (absl::Now() < next_beat) continue;
    next_beat = absl::Now() + kMonitorBeat;
    Beat(clock.SinceLastLook());
    if (ending_) break;
  }
  for (Peer& peer : peers_) peer.connection.Send(FrameOf(FrameType::kBye));
  if (ending_ && options_.on_end) options_.on_end();
}

void RankHub::Accept() {
  while (true) {
    Socket socket = listener_.Accept();
    if (socket.fd() < 0) return;
    const auto strangers =
        std::count_if(peers_.begin(), peers_.end(), [](const Peer& peer) { return peer.rank < 0; });
    if (strangers >= kMaxStrangers) continue;  // closes it
    Peer& peer = peers_.emplace_back(Peer{FrameConnection(std::move(socket))});
    Frame greeting = FrameOf(FrameType::kHello);
    greeting.secret = address_.greeting;
    peer.connection.Send(greeting);
  }
}

void RankHub::Read(Peer* peer) {
  std::vector<Frame> frames;
  const bool open = peer->connection.Receive(&frames);
  for (const Frame& frame : frames) {
    if (!peer->left && !Understand(frame, peer)) peer->left = true;
  }
  if (!open && !peer->left) Leave(peer, "its process has ended");
}

// False when there is nothing more to hear from the peer.
bool RankHub::Understand(const Frame& frame, Peer* peer) {
  peer->silent = absl::ZeroDuration();
  if (peer->rank < 0) {
    const auto ranks = static_cast<int32_t>(table_.num_ranks());
    const bool known = frame.type == FrameType::kHello && frame.secret == address_.answer &&
                       frame.rank > 0 && frame.rank < ranks;
    if (!known) return false;
    peer->rank = frame.rank;
    table_.SetPlace(frame.rank, std::string(frame.host, strnlen(frame.host, sizeof(frame.host))),
                    frame.pid);
  } else if (frame.type == FrameType::kReport) {
    table_.Update(peer->rank, frame.report);
  } else if (frame.type == FrameType::kMissed) {
    Lose(0, absl::StrCat("rank ", peer->rank, " had no word from it for ",
                         absl::FormatDuration(options_.timeout), " and ends the job"));
    return false;
  }
  return frame.type != FrameType::kBye;
}

void RankHub::Beat(absl::Duration awake) {
  table_.Update(0, activity_.Read());
  const Frame alive = FrameOf(FrameType::kAlive);
  for (Peer& peer : peers_) {
    peer.silent += awake;
    peer.connection.Send(alive);
    const absl::Duration timeout = peer.rank < 0 ? kHelloTimeout : options_.timeout;
    if (peer.silent >= timeout) {
      Leave(&peer, absl::StrCat("no word from it for ", absl::FormatDuration(timeout),
                                ": it is stopped, or its host down or cut off"));
    }
  }
  if (options_.on_beat && options_.on_beat(awake)) ending_ = true;
}

void RankHub::Leave(Peer* peer, const std::string& how) {
  peer->left = true;
  if (peer->rank >= 0) Lose(peer->rank, how);  // else a stranger
}

void RankHub::Lose(int rank, const std::string& how) {
  ending_ = true;
  const RankStatus status = table_.Read(rank);
  if (options_.on_lost) options_.on_lost({status.rank, status.host, status.pid, how});
}

}  // namespace polystrate

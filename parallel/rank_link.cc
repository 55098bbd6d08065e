#include "parallel/rank_link.h"

#include <unistd.h>

#include <algorithm>
#include <utility>
#include <vector>

#include "absl/strings/str_cat.h"
#include "absl/strings/str_join.h"
#include "absl/time/clock.h"
#include "kernels/core/status.h"
#include "parallel/host.h"

namespace polystrate {
namespace {

// Of one address. A host has several, of which some may lead nowhere or to another host.
constexpr absl::Duration kConnectTimeout = absl::Seconds(3);

// A connection to whoever knows the greeting.
absl::StatusOr<FrameConnection> ConnectTo(const std::string& host, const MonitorAddress& address) {
  ASSIGN_OR_RETURN(Socket socket, Socket::Connect(host, address.port, kConnectTimeout));
  FrameConnection connection(std::move(socket));
  const absl::Time deadline = absl::Now() + kConnectTimeout;
  std::vector<Frame> frames;
  while (frames.empty()) {
    std::vector<pollfd> inputs = {{connection.fd(), POLLIN, 0}};
    WaitForInput(&inputs, deadline - absl::Now());
    const bool open = connection.Receive(&frames);
    if (!frames.empty()) break;
    if (!open || absl::Now() >= deadline) {
      return absl::UnavailableError(absl::StrCat(host, " does not answer as rank 0"));
    }
  }
  if (frames[0].type == FrameType::kHello && frames[0].secret == address.greeting) {
    return connection;
  }
  return absl::UnavailableError(absl::StrCat(host, " is not rank 0's host"));
}

Frame Hello(const MonitorAddress& address, int rank) {
  Frame hello;
  hello.type = FrameType::kHello;
  hello.secret = address.answer;
  hello.rank = rank;
  hello.pid = getpid();
  const std::string host = HostName();
  std::copy_n(host.begin(), std::min(host.size(), sizeof(hello.host) - 1), hello.host);
  return hello;
}

}  // namespace

absl::StatusOr<std::unique_ptr<RankLink>> RankLink::Connect(const MonitorAddress& address, int rank,
                                                            const RankActivity& activity,
                                                            const MonitorOptions& options) {
  std::vector<std::string> failures;
  for (const std::string& host : address.hosts) {
    auto connection = ConnectTo(host, address);
    if (!connection.ok()) {
      failures.emplace_back(connection.status().message());
      continue;
    }
    connection->Send(Hello(address, rank));
    return std::unique_ptr<RankLink>(
        new RankLink(*std::move(connection), address, activity, options));
  }
  return absl::UnavailableError(
      absl::StrCat("the monitor on ", HostName(), " cannot reach rank 0 on ", address.host_name,
                   "; the hosts need TCP between them on all ports: ",
                   failures.empty() ? "it has no address" : absl::StrJoin(failures, "; ")));
}

RankLink::RankLink(FrameConnection connection, const MonitorAddress& address,
                   const RankActivity& activity, const MonitorOptions& options)
    : options_(options),
      address_(address),
      activity_(activity),
      connection_(std::move(connection)),
      thread_(&RankLink::Run, this) {}

RankLink::~RankLink() {
  stop_.Set();
  thread_.join();
}

void RankLink::Run() {
  AwakeClock clock;
  absl::Duration silent;
  absl::Time next_beat = absl::Now();
  while (!stop_.is_set()) {
    std::vector<pollfd> inputs = {{stop_.fd(), POLLIN, 0}, {connection_.fd(), POLLIN, 0}};
    WaitForInput(&inputs, next_beat - absl::Now());
    std::vector<Frame> frames;
    const bool open = connection_.Receive(&frames);
    for (const Frame& frame : frames) {
      if (frame.type == FrameType::kBye) return;
    }
    if (!open) return Lose("its process has ended");
    if (!frames.empty()) silent = absl::ZeroDuration();
    if (absl::Now() < next_beat) continue;
    next_beat = absl::Now() + kMonitorBeat;
    Frame report;
    report.type = FrameType::kReport;
    report.report = activity_.Read();
    connection_.Send(report);
    silent += clock.SinceLastLook();
    if (silent >= options_.timeout) {
      report.type = FrameType::kMissed;  // for a rank 0 that was stopped and goes on
      connection_.Send(report);
      return Lose(absl::StrCat("no word from it for ", absl::FormatDuration(options_.timeout),
                               ": it is stopped, or its host down or cut off"));
    }
  }
  Frame bye;
  bye.type = FrameType::kBye;
  connection_.Send(bye);
}

void RankLink::Lose(const std::string& how) {
  if (options_.on_lost) options_.on_lost({0, address_.host_name, address_.pid, how});
}

}  // namespace polystrate

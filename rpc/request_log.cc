#include "rpc/request_log.h"

#include <fcntl.h>
#include <pthread.h>
#include <sys/stat.h>
#include <unistd.h>

#include <algorithm>
#include <atomic>
#include <cerrno>
#include <cmath>
#include <csignal>
#include <cstdio>
#include <cstring>
#include <deque>
#include <utility>

#include "absl/base/thread_annotations.h"
#include "absl/strings/str_cat.h"
#include "absl/synchronization/mutex.h"
#include "absl/time/clock.h"
#include "engine/json_writer.h"
#include "kernels/core/check.h"

namespace polystrate {
namespace {

constexpr absl::Duration kLastWrites = absl::Seconds(2);
constexpr absl::Duration kPatience = absl::Milliseconds(100);  // so that writes carry many lines

void AddString(const char* key, const std::string& value, JsonWriter* json) {
  if (!value.empty()) json->Key(key).String(value);
}

// Microseconds: more digits would be noise.
void AddSeconds(const char* key, double seconds, JsonWriter* json) {
  if (seconds >= 0) json->Key(key).Double(std::round(seconds * 1e6) / 1e6);
}

// A descriptor for appending, or -1 with errno set. Opening must not wait either: a pipe without a
// reader is an error.
int OpenForAppend(const std::string& path) {
  if (path == "-") return fcntl(STDERR_FILENO, F_DUPFD_CLOEXEC, 0);
  const int fd = open(path.c_str(), O_WRONLY | O_APPEND | O_CREAT | O_CLOEXEC | O_NONBLOCK, 0640);
  if (fd >= 0) fcntl(fd, F_SETFL, O_APPEND);  // its own thread may wait
  return fd;
}

// True when `path` is no longer the file that `fd` writes.
bool Moved(const std::string& path, int fd) {
  struct stat named = {};
  struct stat opened = {};
  if (path == "-") return false;
  if (stat(path.c_str(), &named) != 0) return true;
  return fstat(fd, &opened) != 0 || named.st_dev != opened.st_dev || named.st_ino != opened.st_ino;
}

// A reader of a pipe that goes away is an error like others here, not the end of the process.
void BlockSigpipe() {
  sigset_t signals;
  sigemptyset(&signals);
  sigaddset(&signals, SIGPIPE);
  CHECK_EQ(pthread_sigmask(SIG_BLOCK, &signals, nullptr), 0);
}

// How many bytes the file took.
size_t WriteAll(int fd, absl::string_view text) {
  size_t done = 0;
  while (done < text.size()) {
    const ssize_t n = write(fd, text.data() + done, text.size() - done);
    if (n < 0 && errno == EINTR) continue;
    if (n <= 0) break;
    done += static_cast<size_t>(n);
  }
  return done;
}

}  // namespace

std::string ToLine(const RequestRecord& record) {
  JsonWriter json;
  json.BeginObject();
  json.Key("time").String(
      absl::FormatTime("%Y-%m-%dT%H:%M:%E6SZ", record.time, absl::UTCTimeZone()));
  json.Key("request_id").String(record.request_id);
  AddString("peer", record.peer, &json);
  AddString("model", record.model, &json);
  json.Key("status").String(absl::StatusCodeToString(record.status));
  AddString("finish_reason", record.finish_reason, &json);
  json.Key("priority").Int(record.priority);
  json.Key("prompt_tokens").Int(record.prompt_tokens);
  json.Key("cached_tokens").Int(record.cached_tokens);
  json.Key("completion_tokens").Int(record.completion_tokens);
  AddSeconds("queue_seconds", record.queue_seconds, &json);
  AddSeconds("ttft_seconds", record.ttft_seconds, &json);
  AddSeconds("e2e_seconds", record.e2e_seconds, &json);
  AddString("engine", record.engine, &json);
  if (record.attempts > 0) json.Key("attempts").Int(record.attempts);
  AddString("traceparent", record.traceparent, &json);
  json.EndObject();
  return absl::StrCat(json.text(), "\n");
}

struct RequestLog::State {
  std::string path;
  int fd = -1;  // the writer's alone once it runs
  std::atomic<int64_t> num_written{0};
  std::atomic<int64_t> num_dropped{0};
  std::array<std::atomic<int64_t>, 17> num_refused{};  // by code

  absl::Mutex mutex;
  std::deque<RequestRecord> queue ABSL_GUARDED_BY(mutex);
  bool stop ABSL_GUARDED_BY(mutex) = false;
  bool stopped ABSL_GUARDED_BY(mutex) = false;

  bool HasWork() const ABSL_SHARED_LOCKS_REQUIRED(mutex) { return stop || !queue.empty(); }
  ~State() {
    if (fd >= 0) close(fd);
  }
};

// False when the new file cannot be opened; the old one is kept then.
bool RequestLog::Reopen(State* state) {
  const int fd = OpenForAppend(state->path);
  if (fd < 0) return false;
  close(state->fd);
  state->fd = fd;
  return true;
}

absl::StatusOr<std::unique_ptr<RequestLog>> RequestLog::Open(const std::string& path) {
  auto state = std::make_unique<State>();
  state->path = path;
  if (!path.empty()) state->fd = OpenForAppend(path);
  if (!path.empty() && state->fd < 0) {
    return absl::InvalidArgumentError(
        absl::StrCat("--request_log: cannot open ", path, " for appending: ", strerror(errno)));
  }
  return std::unique_ptr<RequestLog>(new RequestLog(std::move(state)));
}

RequestLog::RequestLog(std::unique_ptr<State> state) : state_(std::move(state)) {
  if (state_->fd >= 0) writer_ = std::thread([raw = state_.get()] { Write(*raw); });
}

RequestLog::~RequestLog() {
  if (!has_file()) return;
  bool stopped = false;
  {
    absl::MutexLock lock(&state_->mutex);
    state_->stop = true;
    stopped = state_->mutex.AwaitWithTimeout(absl::Condition(&state_->stopped), kLastWrites);
  }
  if (stopped) {
    writer_.join();
  } else {
    std::fprintf(stderr, "request log: %s takes nothing, its last lines are lost\n",
                 state_->path.c_str());
    writer_.detach();
    static_cast<void>(state_.release());  // the writer's, whose write may never return
  }
}

void RequestLog::Add(RequestRecord record) {
  CHECK(has_file());
  absl::MutexLock lock(&state_->mutex);
  if (state_->queue.size() >= kMaxQueued) {
    ++state_->num_dropped;
    return;
  }
  state_->queue.push_back(std::move(record));
}

void RequestLog::CountRefusal(absl::StatusCode code) {
  ++state_->num_refused.at(static_cast<size_t>(code));
}

RequestLog::CodeCounts RequestLog::num_refused() const {
  CodeCounts counts{};
  for (size_t code = 0; code < counts.size(); ++code) counts[code] = state_->num_refused[code];
  return counts;
}

int64_t RequestLog::num_written() const { return state_->num_written; }
int64_t RequestLog::num_dropped() const { return state_->num_dropped; }

void RequestLog::Write(State& state) {
  BlockSigpipe();
  std::deque<RequestRecord> records;
  bool torn = false;  // the last write ended within a line; the next one ends that line first
  bool stop = false;
  while (!stop) {
    {
      absl::MutexLock lock(&state.mutex);
      state.mutex.Await(absl::Condition(&state, &State::HasWork));
      state.mutex.AwaitWithTimeout(absl::Condition(&state.stop), kPatience);
      stop = state.stop;
      records.swap(state.queue);
    }
    if (Moved(state.path, state.fd)) torn = !Reopen(&state) && torn;
    std::string text = torn ? "\n" : "";
    for (const RequestRecord& record : records) text += ToLine(record);
    const absl::string_view taken = absl::string_view(text).substr(0, WriteAll(state.fd, text));
    const auto num_lines = std::count(taken.begin(), taken.end(), '\n') - (torn && !taken.empty());
    state.num_written += num_lines;
    state.num_dropped += static_cast<int64_t>(records.size()) - num_lines;
    if (!taken.empty()) torn = taken.back() != '\n';
    records.clear();
  }
  absl::MutexLock lock(&state.mutex);
  state.stopped = true;
}

}  // namespace polystrate

#include "launcher/serve_flags.h"

#include "absl/strings/str_cat.h"
#include "kernels/core/status.h"

namespace polystrate {

void ServeFlags::AddTo(FlagSet* flags) {
  engine.AddTo(flags);
  flags->Add("listen", &listen, "HOST:PORT of rank 0's gRPC server; port 0 takes a free one");
  flags->Add("drain_timeout", &drain_timeout, "seconds that running requests get to finish");
  flags->Add("watchdog_soft", &watchdog_soft,
             "seconds after which a step counts as slow: stderr says what every rank does, health "
             "is DEGRADED");
  flags->Add("watchdog_hard", &watchdog_hard,
             "seconds after which a step counts as hung: streams end UNAVAILABLE, all ranks exit");
  flags->Add("rank_timeout", &rank_timeout,
             "seconds of silence after which a rank counts as lost, as when its host is down");
  flags->Add("tls_cert", &rpc.security.tls_cert,
             "TLS: PEM file of the server's certificate chain; read again when it changes");
  flags->Add("tls_key", &rpc.security.tls_key, "TLS: PEM file of its private key");
  flags->Add("tls_client_ca", &rpc.security.tls_client_ca,
             "mTLS: PEM file of whom a client's certificate must be signed by");
  flags->Add("api_key_file", &rpc.security.api_key_file,
             "file of the keys that clients may show, one a line; read again when it changes");
  flags->Add("max_queued_requests", &max_queued_requests,
             "outputs that may wait for their first step; more are refused with a retry delay");
  flags->Add("max_queued_tokens", &max_queued_tokens,
             "prompt tokens that may wait (default: max_queued_requests * "
             "max_num_batched_tokens)");
  flags->Add("reader_timeout", &reader_timeout,
             "seconds after which a client that takes no output is given up");
  flags->Add("max_message_bytes", &rpc.max_message_bytes, "of a request or an event, at most");
  flags->Add("metrics_listen", &metrics_listen,
             "HOST:PORT of GET /metrics for Prometheus, plain HTTP over IPv4 (default: none)");
  flags->Add("request_log", &request_log,
             "file that gets a line of JSON for every request, - for stderr (default: none)");
  registration.AddTo(flags);
}

absl::Status ServeFlags::Check() const {
  RETURN_IF_ERROR(registration.Check(listen));
  if (drain_timeout < 0) {
    return absl::InvalidArgumentError("--drain_timeout must not be negative");
  }
  if (!(watchdog_soft > 0 && watchdog_hard >= watchdog_soft)) {
    return absl::InvalidArgumentError(
        absl::StrCat("--watchdog_soft ", watchdog_soft, " and --watchdog_hard ", watchdog_hard,
                     ": both must be above 0, the hard one not the smaller"));
  }
  if (!(rank_timeout >= 1)) {
    return absl::InvalidArgumentError(
        absl::StrCat("--rank_timeout is ", rank_timeout, "; it must be at least 1"));
  }
  constexpr int64_t kMost = int64_t{1} << 32;
  struct Bound {
    const char* flag;
    int64_t value;
    int64_t most;
  };
  for (const Bound& bound : {Bound{"max_queued_requests", max_queued_requests, kMost},
                             Bound{"max_queued_tokens", max_queued_tokens.value_or(1), kMost},
                             Bound{"reader_timeout", reader_timeout, 86400}}) {
    if (bound.value >= 1 && bound.value <= bound.most) continue;
    return absl::InvalidArgumentError(absl::StrCat("--", bound.flag, " is ", bound.value,
                                                   "; it must be in [1, ", bound.most, "]"));
  }
  return absl::OkStatus();
}

}  // namespace polystrate

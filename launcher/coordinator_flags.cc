#include "launcher/coordinator_flags.h"

#include "absl/strings/str_cat.h"
#include "kernels/core/status.h"

namespace polystrate {
namespace {

absl::StatusOr<RoutingPolicy> ParseRouting(const std::string& name) {
  if (name == "prefix") return RoutingPolicy::kPrefix;
  if (name == "least_load") return RoutingPolicy::kLeastLoad;
  if (name == "round_robin") return RoutingPolicy::kRoundRobin;
  return absl::InvalidArgumentError(
      absl::StrCat("--routing is \"", name, "\"; it must be prefix, least_load or round_robin"));
}

absl::Status CheckSeconds(const char* flag, double seconds, double least) {
  constexpr double kMost = 86400;
  if (seconds >= least && seconds <= kMost) return absl::OkStatus();
  return absl::InvalidArgumentError(
      absl::StrCat("--", flag, " is ", seconds, "; it must be in [", least, ", ", kMost, "]"));
}

}  // namespace

void CoordinatorFlags::AddTo(FlagSet* flags) {
  flags->Add("listen", &options.listen, "HOST:PORT of the gRPC server; port 0 takes a free one");
  flags->Add(
      "http_listen", &options.http_listen,
      "HOST:PORT of the OpenAI API, /metrics, /health and the status page; HTTPS with --tls_cert "
      "(default: none)");
  flags->Add("http_origin", &options.http.allowed_origins,
             "web pages that may call it, as https://example.org");
  flags->Add("engine", &options.engines, "HOST:PORT of an engine; may be given again");
  flags->Add("engine_file", &options.pool.engine_file,
             "file of engines, HOST:PORT a line; read again when it changes");
  flags->Add("routing", &routing,
             "prefix: to the engine that holds most of the prompt, if its load allows; least_load; "
             "round_robin");
  flags->Add("engine_timeout", &engine_timeout,
             "seconds after which an engine that does not answer is lost");
  flags->Add("carry_timeout", &carry_timeout,
             "seconds that a request whose engine is lost waits for another");
  flags->Add(
      "request_log", &options.request_log,
      "file that gets a line of JSON for each request that ends; - is stderr (default: none)");
  flags->Add("drain_timeout", &drain_timeout, "seconds that running requests get to finish");
  flags->Add("tls_cert", &options.rpc.security.tls_cert,
             "TLS: PEM file of the server's certificate chain; read again when it changes");
  flags->Add("tls_key", &options.rpc.security.tls_key, "TLS: PEM file of its private key");
  flags->Add("tls_client_ca", &options.rpc.security.tls_client_ca,
             "mTLS: PEM file of whom a client's certificate must be signed by");
  flags->Add("api_key_file", &options.rpc.security.api_key_file,
             "file of the keys that clients may show, one a line; read again when it changes");
  flags->Add("max_message_bytes", &options.rpc.max_message_bytes,
             "of a request or an event, at most");
  flags->Add("engine_tls_ca", &engines.tls_ca,
             "TLS to the engines: PEM file of whom their certificates may be signed by");
  flags->Add("engine_tls_cert", &engines.tls_cert,
             "mTLS to the engines: PEM file of the certificate to show");
  flags->Add("engine_tls_key", &engines.tls_key, "mTLS to the engines: its private key");
  flags->Add("engine_tls_server_name", &engines.tls_server_name,
             "the name in the engines' certificates (default: each target's host)");
  flags->Add("engine_api_key_file", &engines.api_key_file,
             "file whose first line that is no comment goes with every call to an engine");
}

absl::StatusOr<CoordinatorOptions> CoordinatorFlags::Options() const {
  RETURN_IF_ERROR(CheckSeconds("drain_timeout", static_cast<double>(drain_timeout), 0));
  RETURN_IF_ERROR(CheckSeconds("engine_timeout", engine_timeout, 0.1));
  RETURN_IF_ERROR(CheckSeconds("carry_timeout", carry_timeout, 0));
  CoordinatorOptions made = options;
  ASSIGN_OR_RETURN(made.pool.policy, ParseRouting(routing));
  ASSIGN_OR_RETURN(made.pool.connector, Connector::Create(engines));
  made.pool.silence = absl::Seconds(engine_timeout);
  made.carry.timeout = absl::Seconds(carry_timeout);
  made.http.security = made.rpc.security;
  made.drain_timeout = absl::Seconds(drain_timeout);
  return made;
}

}  // namespace polystrate

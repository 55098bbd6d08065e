#include "rpc/http/http_server.h"

#include <algorithm>
#include <atomic>
#include <cstdio>
#include <utility>

#include "absl/strings/str_cat.h"
#include "absl/time/clock.h"
#include "engine/json_writer.h"
#include "kernels/core/status.h"
#include "rpc/api_keys.h"
#include "rpc/http/http_listener.h"
#include "rpc/http/openai_handlers.h"
#include "rpc/http/request_gate.h"
#include "rpc/http/status_page.h"
#include "rpc/listen_address.h"

namespace polystrate {
namespace {

constexpr char kModelPath[] = "/v1/models/";

std::vector<HttpRoute> Routes(const HttpExtras& extras) {
  std::vector<HttpRoute> routes = {
      {.method = "POST", .path = "/v1/completions", .keyed = true},
      {.method = "POST", .path = "/v1/chat/completions", .keyed = true},
      {.method = "GET", .path = "/v1/models", .keyed = true},
      {.method = "GET", .path = kModelPath, .prefix = true, .keyed = true},
      {.method = "GET", .path = "/health"},
      {.method = "GET", .path = "/version"},
  };
  if (extras.metrics) routes.push_back({.method = "GET", .path = "/metrics"});
  if (extras.status_json) {
    routes.push_back({.method = "GET", .path = "/status", .keyed = true});
    routes.push_back({.method = "GET", .path = "/"});
  }
  return routes;
}

// What httplib itself refuses.
HttpError LibraryError(int status, int64_t max_body_bytes) {
  switch (status) {
    case 413:
      return {413, absl::StrCat("the request's body is larger than ", max_body_bytes, " bytes")};
    case 414:
      return {414, "the request's path is too long"};
    case 404:
      return {404, "there is nothing at this path"};
    default:
      return {status, status < 500 ? "the request is not well-formed HTTP, came too slowly or is "
                                     "too large"
                                   : "internal error"};
  }
}

void WarnOfStrangers(const std::string& listen, bool encrypted, bool keyed) {
  if (encrypted && keyed) return;
  std::fprintf(stderr, "warning: %s can be reached from other machines and speaks HTTP%s%s\n",
               listen.c_str(), encrypted ? "S" : " in plain text",
               keyed ? "" : " with anybody (--api_key_file)");
}

}  // namespace

class HttpServer::Impl {
 public:
  Impl(const HttpOptions& options, std::unique_ptr<ApiKeys> keys, std::unique_ptr<HttpTls> tls,
       const std::shared_ptr<grpc::Channel>& backend, HttpExtras extras)
      : options_(options),
        extras_(std::move(extras)),
        gate_(Routes(extras_), std::move(keys), options.max_body_bytes),
        handlers_(backend, &shutting_down_),
        listener_(Limits(options), options.max_connections, std::move(tls)) {
    Route();
  }

  absl::Status Start(const std::string& listen) {
    return listener_.Start(listen, [this](const httplib::Request& request) {
      return gate_.Check(request).has_value();
    });
  }
  int port() const { return listener_.port(); }

  void Shutdown(absl::Time deadline) {
    listener_.StopListening();
    if (!listener_.AwaitIdle(deadline)) {
      shutting_down_ = true;
      listener_.AwaitIdle(absl::Now() + absl::Seconds(2));  // the clients are being told
    }
    listener_.Join();
  }

 private:
  static ConnectionLimits Limits(const HttpOptions& options) {
    ConnectionLimits limits;
    limits.max_body_bytes = options.max_body_bytes;
    return limits;
  }

  void Route();
  httplib::Server::HandlerResponse BeforeRouting(const httplib::Request& request,
                                                 httplib::Response& response) const;
  void AllowOrigin(const httplib::Request& request, httplib::Response* response) const;

  const HttpOptions options_;
  const HttpExtras extras_;
  const RequestGate gate_;
  std::atomic<bool> shutting_down_{false};
  OpenAiHandlers handlers_;
  HttpListener listener_;  // last: its end comes first
};

void HttpServer::Impl::Route() {
  using httplib::Request;
  using httplib::Response;
  listener_.set_pre_routing_handler([this](const Request& request, Response& response) {
    return BeforeRouting(request, response);
  });
  listener_.set_error_handler([this](const Request&, Response& response) {
    if (response.body.empty()) {
      SetError(LibraryError(response.status, options_.max_body_bytes), &response);
    }
  });
  listener_.Post("/v1/completions", [this](const Request& request, Response& response) {
    handlers_.Complete(request, response);
  });
  listener_.Post("/v1/chat/completions", [this](const Request& request, Response& response) {
    handlers_.Chat(request, response);
  });
  listener_.Get("/v1/models",
                [this](const Request&, Response& response) { handlers_.ListModels(response); });
  listener_.Get("/v1/models/.+", [this](const Request& request, Response& response) {
    handlers_.ShowModel(request.path.substr(sizeof(kModelPath) - 1), response);
  });
  listener_.Get("/health", [this](const Request&, Response& response) {
    if (extras_.serving && !extras_.serving()) {
      return SetError(HttpError(503, "no engine serves"), &response);
    }
    response.set_content("", "text/plain");
  });
  listener_.Get("/version", [](const Request&, Response& response) {
    JsonWriter json;
    json.BeginObject().Key("version").String(POLYSTRATE_VERSION).EndObject();
    response.set_content(json.text(), "application/json");
  });
  listener_.Get("/metrics", [this](const Request&, Response& response) {
    response.set_content(extras_.metrics(), "text/plain; version=0.0.4; charset=utf-8");
  });
  listener_.Get("/status", [this](const Request&, Response& response) {
    response.set_header("Cache-Control", "no-store");
    response.set_content(extras_.status_json(), "application/json");
  });
  listener_.Get("/", [policy = StatusPagePolicy()](const Request&, Response& response) {
    response.set_header("Content-Security-Policy", policy);
    response.set_header("X-Content-Type-Options", "nosniff");
    response.set_header("Cache-Control", "no-cache");
    response.set_content(StatusPage().data(), StatusPage().size(), "text/html; charset=utf-8");
  });
}

httplib::Server::HandlerResponse HttpServer::Impl::BeforeRouting(
    const httplib::Request& request, httplib::Response& response) const {
  using HandlerResponse = httplib::Server::HandlerResponse;
  AllowOrigin(request, &response);
  const std::string methods = gate_.AllowedMethods(request.path);
  if (request.method == "OPTIONS" && !methods.empty() &&
      response.has_header("Access-Control-Allow-Origin")) {
    response.set_header("Access-Control-Allow-Methods", methods);
    response.set_header("Access-Control-Allow-Headers", "*, Authorization");
    response.status = 204;
    return HandlerResponse::Handled;
  }
  const std::optional<HttpError> error = gate_.Check(request);
  if (!error.has_value()) return HandlerResponse::Unhandled;
  if (error->status == 405) response.set_header("Allow", methods);
  if (error->status == 401) response.set_header("WWW-Authenticate", "Bearer");
  SetError(*error, &response);
  return HandlerResponse::Handled;
}

void HttpServer::Impl::AllowOrigin(const httplib::Request& request,
                                   httplib::Response* response) const {
  const std::string origin = request.get_header_value("Origin");
  const auto& allowed = options_.allowed_origins;
  if (std::find(allowed.begin(), allowed.end(), origin) == allowed.end()) return;
  response->set_header("Access-Control-Allow-Origin", origin);
  response->set_header("Vary", "Origin");
}

HttpServer::HttpServer(std::unique_ptr<Impl> impl) : impl_(std::move(impl)) {}
HttpServer::~HttpServer() { Shutdown(absl::Now()); }

int HttpServer::port() const { return impl_->port(); }
void HttpServer::Shutdown(absl::Time deadline) { impl_->Shutdown(deadline); }

absl::StatusOr<std::unique_ptr<HttpServer>> HttpServer::Start(
    const std::string& listen, const HttpOptions& options, std::shared_ptr<grpc::Channel> backend,
    HttpExtras extras) {
  ASSIGN_OR_RETURN(const ListenAddress address, CheckListenAddress(listen));
  const ServerSecurity& security = options.security;
  std::unique_ptr<ApiKeys> keys;
  if (!security.api_key_file.empty()) {
    ASSIGN_OR_RETURN(keys, ApiKeys::Create(security.api_key_file));
  }
  std::unique_ptr<HttpTls> tls;
  if (!security.tls_cert.empty()) {
    ASSIGN_OR_RETURN(tls, HttpTls::Create(security));
  }
  if (!address.loopback) WarnOfStrangers(listen, tls != nullptr, keys != nullptr);
  auto impl =
      std::make_unique<Impl>(options, std::move(keys), std::move(tls), backend, std::move(extras));
  RETURN_IF_ERROR(impl->Start(listen));
  return std::unique_ptr<HttpServer>(new HttpServer(std::move(impl)));
}

}  // namespace polystrate

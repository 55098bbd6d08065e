#include "rpc/server_credentials.h"

#include <cstdio>
#include <optional>
#include <utility>
#include <vector>

#include "absl/base/thread_annotations.h"
#include "absl/strings/match.h"
#include "absl/strings/string_view.h"
#include "absl/synchronization/mutex.h"
#include "grpc/grpc_security.h"
#include "grpc/slice.h"
#include "kernels/core/check.h"
#include "kernels/core/status.h"
#include "rpc/api_keys.h"
#include "rpc/tls_files.h"

namespace polystrate {
namespace {

constexpr absl::string_view kOpenService = "/grpc.health.v1.Health/";  // probes have no keys

struct TlsMaterial {
  TlsIdentity identity;
  std::string client_roots;  // empty: clients show no certificate
};

// The certificates that gRPC asks for at every handshake.
class TlsFiles {
 public:
  static absl::StatusOr<std::unique_ptr<TlsFiles>> Create(const ServerSecurity& security) {
    std::unique_ptr<TlsFiles> files(new TlsFiles(security));
    absl::MutexLock lock(&files->mutex_);
    ASSIGN_OR_RETURN(files->fresh_, files->Read());
    return files;
  }

  // What the next handshake should use, if that is new. A stat() of each file as a rule.
  std::optional<TlsMaterial> TakeFresh() {
    absl::MutexLock lock(&mutex_);
    if (certificates_.Changed() || private_key_.Changed() ||
        (client_ca_.has_value() && client_ca_->Changed())) {
      absl::StatusOr<TlsMaterial> material = Read();
      if (material.ok()) {
        fresh_ = *std::move(material);
        std::fprintf(stderr, "serve: TLS certificates are read again, %s for one\n",
                     certificates_.path().c_str());
      } else {
        // Perhaps only half of the new pair is there yet.
        std::fprintf(stderr, "serve: %s; the certificates of before stay in force\n",
                     std::string(material.status().message()).c_str());
      }
    }
    return std::exchange(fresh_, std::nullopt);
  }

 private:
  explicit TlsFiles(const ServerSecurity& security)
      : certificates_(security.tls_cert), private_key_(security.tls_key) {
    if (!security.tls_client_ca.empty()) client_ca_.emplace(security.tls_client_ca);
  }

  absl::StatusOr<TlsMaterial> Read() ABSL_EXCLUSIVE_LOCKS_REQUIRED(mutex_) {
    TlsMaterial material;
    // Every file is read, also after an error, so that each change is reported once.
    absl::StatusOr<TlsIdentity> identity = ReadTlsIdentity(certificates_, private_key_);
    if (client_ca_.has_value()) {
      ASSIGN_OR_RETURN(material.client_roots, ReadTlsRoots(*client_ca_));
    }
    ASSIGN_OR_RETURN(material.identity, std::move(identity));
    return material;
  }

  absl::Mutex mutex_;
  WatchedFile certificates_ ABSL_GUARDED_BY(mutex_);
  WatchedFile private_key_ ABSL_GUARDED_BY(mutex_);
  std::optional<WatchedFile> client_ca_ ABSL_GUARDED_BY(mutex_);
  std::optional<TlsMaterial> fresh_ ABSL_GUARDED_BY(mutex_);
};

// Lives as long as gRPC's credentials, which may be longer than the server.
struct Guard {
  std::unique_ptr<TlsFiles> tls;
  std::unique_ptr<ApiKeys> keys;
};

absl::string_view View(const grpc_slice& slice) {
  return {reinterpret_cast<const char*>(GRPC_SLICE_START_PTR(slice)), GRPC_SLICE_LENGTH(slice)};
}

absl::string_view BearerToken(absl::string_view authorization) {
  constexpr absl::string_view kScheme = "Bearer ";
  if (!absl::StartsWithIgnoreCase(authorization, kScheme)) return "";
  return authorization.substr(kScheme.size());
}

// --- Callbacks of gRPC's C interface. ---

void CheckKey(void* guard, grpc_auth_context*, const grpc_metadata* metadata, size_t num_metadata,
              grpc_process_auth_metadata_done_cb done, void* call) {
  bool allowed = false;
  std::vector<grpc_metadata> secrets;
  for (size_t i = 0; i < num_metadata; ++i) {
    const absl::string_view name = View(metadata[i].key);
    const absl::string_view value = View(metadata[i].value);
    if (name == ":path") allowed |= absl::StartsWith(value, kOpenService);
    if (name != "authorization" && name != "x-api-key") continue;
    secrets.push_back(metadata[i]);
    allowed |=
        static_cast<Guard*>(guard)->keys->Accepts(name == "x-api-key" ? value : BearerToken(value));
  }
  done(call, secrets.data(), secrets.size(), nullptr, 0,
       allowed ? GRPC_STATUS_OK : GRPC_STATUS_UNAUTHENTICATED,
       allowed ? nullptr : "this server wants a valid API key");
}

void DestroyGuard(void* guard) { delete static_cast<Guard*>(guard); }

grpc_ssl_certificate_config_reload_status FetchCertificates(
    void* guard, grpc_ssl_server_certificate_config** config) {
  const std::optional<TlsMaterial> fresh = static_cast<Guard*>(guard)->tls->TakeFresh();
  if (!fresh.has_value()) return GRPC_SSL_CERTIFICATE_CONFIG_RELOAD_UNCHANGED;
  const grpc_ssl_pem_key_cert_pair pair = {fresh->identity.private_key.c_str(),
                                           fresh->identity.certificates.c_str()};
  // gRPC wants roots also where clients are asked for nothing.
  const TlsMaterial& material = *fresh;
  const std::string& roots =
      material.client_roots.empty() ? material.identity.certificates : material.client_roots;
  *config = grpc_ssl_server_certificate_config_create(roots.c_str(), &pair, 1);
  return GRPC_SSL_CERTIFICATE_CONFIG_RELOAD_NEW;
}

// gRPC's own classes will not do: plaintext ones take no check of metadata, and those of TLS read
// their files once or, experimental, stop answering when a replacement is no good. Underneath, the
// C interface has what it takes.
class PortCredentials final : public grpc::ServerCredentials {
 public:
  explicit PortCredentials(std::unique_ptr<Guard> guard, bool client_certificates)
      : credentials_(guard->tls == nullptr ? grpc_insecure_server_credentials_create()
                                           : Tls(guard.get(), client_certificates)) {
    auto* check = guard->keys == nullptr ? nullptr : CheckKey;
    // From here on the guard is gRPC's, which calls DestroyGuard; the analyzer does not see it.
    grpc_server_credentials_set_auth_metadata_processor(credentials_,
                                                        {check, DestroyGuard, guard.release()});
  }  // NOLINT(clang-analyzer-cplusplus.NewDeleteLeaks)
  ~PortCredentials() override { grpc_server_credentials_release(credentials_); }
  PortCredentials(const PortCredentials&) = delete;
  PortCredentials& operator=(const PortCredentials&) = delete;

  void SetAuthMetadataProcessor(const std::shared_ptr<grpc::AuthMetadataProcessor>&) override {
    CHECK(false);  // CheckKey is the only one
  }

 private:
  static grpc_server_credentials* Tls(Guard* guard, bool client_certificates) {
    return grpc_ssl_server_credentials_create_with_options(
        grpc_ssl_server_credentials_create_options_using_config_fetcher(
            client_certificates ? GRPC_SSL_REQUEST_AND_REQUIRE_CLIENT_CERTIFICATE_AND_VERIFY
                                : GRPC_SSL_DONT_REQUEST_CLIENT_CERTIFICATE,
            FetchCertificates, guard));
  }

  int AddPortToServer(const std::string& address, grpc_server* server) override {
    return grpc_server_add_http2_port(server, address.c_str(), credentials_);
  }

  grpc_server_credentials* const credentials_;
};

absl::Status CheckTogether(const ServerSecurity& security) {
  if (security.tls_cert.empty() != security.tls_key.empty()) {
    return absl::InvalidArgumentError("--tls_cert and --tls_key are given together or not at all");
  }
  if (!security.tls_client_ca.empty() && security.tls_cert.empty()) {
    return absl::InvalidArgumentError("--tls_client_ca needs --tls_cert and --tls_key");
  }
  return absl::OkStatus();
}

}  // namespace

absl::StatusOr<std::shared_ptr<grpc::ServerCredentials>> CreateServerCredentials(
    const ServerSecurity& security) {
  RETURN_IF_ERROR(CheckTogether(security));
  auto guard = std::make_unique<Guard>();
  if (!security.tls_cert.empty()) {
    ASSIGN_OR_RETURN(guard->tls, TlsFiles::Create(security));
  }
  if (!security.api_key_file.empty()) {
    ASSIGN_OR_RETURN(guard->keys, ApiKeys::Create(security.api_key_file));
  }
  return std::make_shared<PortCredentials>(std::move(guard), !security.tls_client_ca.empty());
}

}  // namespace polystrate

#include "launcher/registration_flags.h"

#include <utility>

#include "absl/strings/str_cat.h"
#include "kernels/core/status.h"
#include "rpc/connector.h"

namespace polystrate {
namespace {

// Of HOST:PORT, which the server checks.
std::string HostOf(const std::string& address) { return address.substr(0, address.rfind(':')); }

bool IsEveryAddress(const std::string& host) {
  return host == "0.0.0.0" || host == "[::]" || host == "*";
}

}  // namespace

void RegistrationFlags::AddTo(FlagSet* flags) {
  flags->Add("register", &coordinators,
             "HOST:PORT of coordinators that are told that this engine is there (default: none)");
  flags->Add("advertise", &advertise,
             "HOST:PORT at which they reach it; port 0 stands for the one that --listen got "
             "(default: --listen)");
  flags->Add("register_tls_ca", &connection.tls_ca,
             "TLS: PEM file of whom the coordinators' certificates may be signed by");
  flags->Add("register_tls_cert", &connection.tls_cert,
             "mTLS: PEM file of the certificate to show to them");
  flags->Add("register_tls_key", &connection.tls_key, "mTLS: PEM file of its private key");
  flags->Add("register_api_key_file", &connection.api_key_file,
             "file whose first line that is no comment they get as bearer token");
}

absl::Status RegistrationFlags::Check(const std::string& listen) const {
  if (coordinators.empty()) {
    if (advertise.empty()) return absl::OkStatus();
    return absl::InvalidArgumentError("--advertise is for coordinators: give --register too");
  }
  for (const std::string& coordinator : coordinators) {
    if (CheckTarget(coordinator).ok()) continue;
    return absl::InvalidArgumentError(
        absl::StrCat("--register is \"", coordinator, "\"; it takes HOST:PORT, as 10.0.0.1:50050"));
  }
  if (advertise.empty()) {
    if (!IsEveryAddress(HostOf(listen))) return absl::OkStatus();
    return absl::InvalidArgumentError(
        absl::StrCat("--listen is ", listen,
                     ", which tells a coordinator nothing: give "
                     "--advertise HOST:PORT, an address of this host"));
  }
  const std::string host = HostOf(advertise);
  const bool any_port = advertise == absl::StrCat(host, ":0");
  if (!host.empty() && !IsEveryAddress(host) && (any_port || CheckTarget(advertise).ok())) {
    return absl::OkStatus();
  }
  return absl::InvalidArgumentError(
      absl::StrCat("--advertise is \"", advertise,
                   "\"; it takes HOST:PORT as others reach it, as 10.0.0.1:50051"));
}

absl::StatusOr<std::vector<RegistrationOptions>> RegistrationFlags::Make(const std::string& listen,
                                                                         int port) const {
  if (coordinators.empty()) return std::vector<RegistrationOptions>();
  RegistrationOptions options;
  auto connector = Connector::Create(connection);
  if (!connector.ok()) {
    return absl::Status(
        connector.status().code(),
        absl::StrCat("for --register: ", std::string(connector.status().message())));
  }
  options.connector = *std::move(connector);
  options.target = advertise.empty() ? listen : advertise;
  const std::string host = HostOf(options.target);
  if (options.target == absl::StrCat(host, ":0")) options.target = absl::StrCat(host, ":", port);
  std::vector<RegistrationOptions> all;
  for (const std::string& coordinator : coordinators) {
    options.coordinator = coordinator;
    all.push_back(options);
  }
  return all;
}

}  // namespace polystrate

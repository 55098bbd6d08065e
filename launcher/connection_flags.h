// The flags of every command that talks to a running engine: TLS and a key.
#pragma once

#include "launcher/flags.h"
#include "rpc/connector.h"

namespace polystrate {

struct ConnectionFlags {
  ConnectorOptions options;

  void AddTo(FlagSet* flags) {
    flags->Add("tls_ca", &options.tls_ca,
               "TLS: PEM file of whom the server's certificate may be signed by");
    flags->Add("tls_cert", &options.tls_cert, "mTLS: PEM file of the certificate to show");
    flags->Add("tls_key", &options.tls_key, "mTLS: PEM file of its private key");
    flags->Add("tls_server_name", &options.tls_server_name,
               "the name in the server's certificate (default: the target's host)");
    flags->Add("api_key_file", &options.api_key_file,
               "file whose first line that is no comment goes with every call as bearer token");
  }
};

}  // namespace polystrate

// TLS and mTLS between RpcServer and Connector, with certificates that openssl makes.

#include <gtest/gtest.h>
#include <sys/stat.h>

#include <filesystem>
#include <string>

#include "rpc/client.h"
#include "rpc/connector.h"
#include "rpc/grpc_status.h"
#include "tests/rpc/served_engine.h"
#include "tests/testing/certificates.h"
#include "tests/testing/expect_status.h"

namespace polystrate {
namespace {

class TlsTest : public testing::Test {
 protected:
  RpcServerOptions Tls() const {
    RpcServerOptions options;
    options.security.tls_cert = server_.certificate;
    options.security.tls_key = server_.private_key;
    return options;
  }
  RpcServerOptions MutualTls() const {
    RpcServerOptions options = Tls();
    options.security.tls_client_ca = authority_.certificate;
    return options;
  }
  ConnectorOptions Trusting(const CertificatePaths& authority) const {
    ConnectorOptions options;
    options.tls_ca = authority.certificate;
    return options;
  }
  ConnectorOptions Showing(const CertificatePaths& own) const {
    ConnectorOptions options = Trusting(authority_);
    options.tls_cert = own.certificate;
    options.tls_key = own.private_key;
    return options;
  }
  // One call of a new connection.
  static absl::Status Call(const ServedEngine& served, const ConnectorOptions& options) {
    return Call(Connector::Create(options)->Connect(served.address()));
  }
  static absl::Status Call(const std::shared_ptr<grpc::Channel>& channel) {
    grpc::ClientContext context;
    context.set_deadline(absl::ToChronoTime(absl::Now() + absl::Seconds(20)));
    pb::LoadInfo load;
    return FromGrpc(pb::Control::NewStub(channel)->GetLoad(&context, pb::GetLoadRequest(), &load));
  }
  // Puts `from` in the place of what the server was started with, as an operator would.
  static void Replace(const std::string& to, const std::string& from) {
    std::filesystem::copy_file(from, to + ".new");
    std::filesystem::rename(to + ".new", to);
  }

  TempDir dir_;
  const CertificatePaths authority_ = MakeAuthority(dir_.path(), "authority");
  const CertificatePaths other_authority_ = MakeAuthority(dir_.path(), "other_authority");
  const CertificatePaths server_ = MakeCertificate(dir_.path(), "server", authority_);
  const CertificatePaths client_ = MakeCertificate(dir_.path(), "client", authority_);
  const CertificatePaths stranger_ = MakeCertificate(dir_.path(), "stranger", other_authority_);
};

TEST_F(TlsTest, StreamsToWhoTrustsTheServer) {
  ServedEngine served(ServedModel(), 4096, Tls());
  served.Run();
  EngineClient client(served.address(), *Connector::Create(Trusting(authority_)));
  ASSERT_TRUE(client.WaitForServing(absl::Seconds(30)).ok());
  int tokens = 0;
  const absl::Status status = client.Generate(
      GreedyRequest(50),
      [&tokens](const pb::GenerateResponse& event) { tokens += event.token().tokens_size(); });
  EXPECT_TRUE(status.ok()) << status;
  EXPECT_EQ(tokens, 50);
}

TEST_F(TlsTest, RefusesPlaintextAndIsRefusedByWhoDoesNotTrustIt) {
  ServedEngine served(ServedModel(), 4096, Tls());
  EXPECT_TRUE(Call(served, Trusting(authority_)).ok());
  EXPECT_TRUE(Fails(Call(served, {}), absl::StatusCode::kUnavailable, ""));
  EXPECT_TRUE(Fails(Call(served, Trusting(other_authority_)), absl::StatusCode::kUnavailable, ""));

  ConnectorOptions named = Trusting(authority_);
  named.tls_server_name = "engine.test";
  EXPECT_TRUE(Call(served, named).ok());
  named.tls_server_name = "another.test";
  EXPECT_TRUE(Fails(Call(served, named), absl::StatusCode::kUnavailable, ""));

  // None of them has harmed the server.
  EXPECT_TRUE(Call(served, Trusting(authority_)).ok());
}

TEST_F(TlsTest, APlaintextServerAnswersNoTls) {
  ServedEngine served;
  EXPECT_TRUE(Fails(Call(served, Trusting(authority_)), absl::StatusCode::kUnavailable, ""));
}

TEST_F(TlsTest, ClientsShowACertificateOfTheAuthority) {
  ServedEngine served(ServedModel(), 4096, MutualTls());
  EXPECT_TRUE(Call(served, Showing(client_)).ok());
  EXPECT_TRUE(Fails(Call(served, Trusting(authority_)), absl::StatusCode::kUnavailable, ""));
  EXPECT_TRUE(Fails(Call(served, Showing(stranger_)), absl::StatusCode::kUnavailable, ""));
}

TEST_F(TlsTest, AReplacedCertificateIsShownToNewConnections) {
  ServedEngine served(ServedModel(), 4096, Tls());
  const auto old_connection = Connector::Create(Trusting(authority_))->Connect(served.address());
  ASSERT_TRUE(Call(old_connection).ok());

  // Half of a replacement, which an operator's tool leaves for a moment or a mistake for long.
  testing::internal::CaptureStderr();
  Replace(server_.certificate, stranger_.certificate);
  EXPECT_TRUE(Call(served, Trusting(authority_)).ok());
  EXPECT_TRUE(Call(served, Trusting(authority_)).ok());
  EXPECT_FALSE(Call(served, Trusting(other_authority_)).ok());
  std::string log = testing::internal::GetCapturedStderr();
  const size_t complaint = log.find(server_.private_key + ": is not the key");
  EXPECT_NE(complaint, std::string::npos) << log;
  EXPECT_EQ(log.find(": is not the key", complaint + server_.private_key.size() + 1),
            std::string::npos)
      << "once is enough: " << log;

  Replace(server_.private_key, stranger_.private_key);
  EXPECT_TRUE(Call(served, Trusting(other_authority_)).ok());
  EXPECT_FALSE(Call(served, Trusting(authority_)).ok());
  EXPECT_TRUE(Call(old_connection).ok());

  std::filesystem::remove(server_.certificate);
  EXPECT_TRUE(Call(served, Trusting(other_authority_)).ok());
}

TEST_F(TlsTest, AReplacedClientAuthorityDecidesOnNewConnections) {
  RpcServerOptions options = Tls();
  options.security.tls_client_ca = dir_.File("clients.pem");
  std::filesystem::copy_file(authority_.certificate, options.security.tls_client_ca);
  ServedEngine served(ServedModel(), 4096, options);
  ASSERT_TRUE(Call(served, Showing(client_)).ok());
  ASSERT_FALSE(Call(served, Showing(stranger_)).ok());
  Replace(options.security.tls_client_ca, other_authority_.certificate);
  EXPECT_TRUE(Call(served, Showing(stranger_)).ok());
  EXPECT_FALSE(Call(served, Showing(client_)).ok());
}

TEST_F(TlsTest, FilesThatWillNotDoAreNamed) {
  const std::string missing = dir_.File("missing.pem");
  const std::string text = dir_.File("text.pem");
  WriteFile(text, "no PEM at all\n");
  const std::string damaged = dir_.File("damaged.pem");
  WriteFile(damaged, ReadFile(server_.certificate) +
                         "-----BEGIN CERTIFICATE-----\nAAAA\n-----END CERTIFICATE-----\n");
  const std::string locked = dir_.File("locked.key");
  EncryptKey(server_.private_key, locked);

  struct Case {
    ServerSecurity security;
    absl::StatusCode code;
    std::string message;
  };
  const absl::StatusCode invalid = absl::StatusCode::kInvalidArgument;
  const std::string& cert = server_.certificate;
  const std::string& key = server_.private_key;
  const Case cases[] = {
      {{cert, "", "", ""}, invalid, "--tls_key"},
      {{"", key, "", ""}, invalid, "--tls_cert"},
      {{"", "", cert, ""}, invalid, "--tls_client_ca"},
      {{missing, key, "", ""}, absl::StatusCode::kNotFound, missing},
      {{cert, missing, "", ""}, absl::StatusCode::kNotFound, missing},
      {{cert, key, missing, ""}, absl::StatusCode::kNotFound, missing},
      {{text, key, "", ""}, invalid, text + ": holds no certificate"},
      {{key, key, "", ""}, invalid, key + ": holds no certificate"},
      {{damaged, key, "", ""}, invalid, damaged + ": holds a damaged certificate"},
      {{cert, text, "", ""}, invalid, text + ": holds no private key"},
      {{cert, locked, "", ""}, invalid, "passphrase"},
      {{cert, client_.private_key, "", ""}, invalid, client_.private_key + ": is not the key"},
      {{cert, key, text, ""}, invalid, text + ": holds no certificate"},
      {{dir_.path(), key, "", ""}, invalid, dir_.path() + ": is no file"},
  };
  for (const Case& test : cases) {
    EXPECT_TRUE(Fails(CreateServerCredentials(test.security).status(), test.code, test.message));
  }

  ConnectorOptions options = Trusting(authority_);
  options.tls_cert = cert;
  EXPECT_TRUE(Fails(Connector::Create(options).status(), invalid, "--tls_key"));
  options.tls_key = client_.private_key;
  EXPECT_TRUE(Fails(Connector::Create(options).status(), invalid, "is not the key"));
  options.tls_ca = "";
  EXPECT_TRUE(Fails(Connector::Create(options).status(), invalid, "--tls_ca"));
  options.tls_ca = missing;
  EXPECT_TRUE(Fails(Connector::Create(options).status(), absl::StatusCode::kNotFound, missing));
}

TEST_F(TlsTest, WarnsOfAKeyThatEveryoneMayRead) {
  testing::internal::CaptureStderr();
  EXPECT_TRUE(CreateServerCredentials(Tls().security).ok());
  EXPECT_EQ(testing::internal::GetCapturedStderr(), "");
  chmod(server_.private_key.c_str(), 0644);
  testing::internal::CaptureStderr();
  EXPECT_TRUE(CreateServerCredentials(Tls().security).ok());
  EXPECT_NE(testing::internal::GetCapturedStderr().find(server_.private_key), std::string::npos);
}

}  // namespace
}  // namespace polystrate

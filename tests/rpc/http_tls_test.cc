// HTTPS and client certificates, with OpenSSL's own client and certificates that openssl makes.
#include <arpa/inet.h>
#include <gtest/gtest.h>
#include <netinet/in.h>
#include <openssl/ssl.h>
#include <sys/socket.h>
#include <unistd.h>

#include <filesystem>
#include <memory>
#include <string>

#include "absl/strings/match.h"
#include "rpc/http/http_server.h"
#include "tests/rpc/http_client.h"
#include "tests/rpc/served_engine.h"
#include "tests/testing/certificates.h"

namespace polystrate {
namespace {

constexpr char kStream[] =
    R"({"prompt":[11,7,301],"max_tokens":40,"ignore_eos":true,"stream":true})";

class HttpTlsTest : public testing::Test {
 protected:
  void Start(bool client_certificates = false) {
    served_.Run();
    HttpOptions options;
    options.security.tls_cert = own_.certificate;
    options.security.tls_key = own_.private_key;
    if (client_certificates) options.security.tls_client_ca = authority_.certificate;
    auto server = HttpServer::Start("127.0.0.1:0", options, served_.channel(), {});
    ASSERT_TRUE(server.ok()) << server.status();
    server_ = *std::move(server);
  }

  // One request over a connection of its own; empty when TLS does not come about.
  std::string Ask(const std::string& request, const CertificatePaths& trusted,
                  const CertificatePaths* shown = nullptr) const {
    const std::unique_ptr<SSL_CTX, decltype(&SSL_CTX_free)> context(
        SSL_CTX_new(TLS_client_method()), &SSL_CTX_free);
    SSL_CTX_load_verify_locations(context.get(), trusted.certificate.c_str(), nullptr);
    SSL_CTX_set_verify(context.get(), SSL_VERIFY_PEER, nullptr);
    if (shown != nullptr) {
      SSL_CTX_use_certificate_file(context.get(), shown->certificate.c_str(), SSL_FILETYPE_PEM);
      SSL_CTX_use_PrivateKey_file(context.get(), shown->private_key.c_str(), SSL_FILETYPE_PEM);
    }
    const int socket = ::socket(AF_INET, SOCK_STREAM | SOCK_CLOEXEC, 0);
    sockaddr_in address = {};
    address.sin_family = AF_INET;
    address.sin_port = htons(static_cast<uint16_t>(server_->port()));
    address.sin_addr.s_addr = htonl(INADDR_LOOPBACK);
    EXPECT_EQ(connect(socket, reinterpret_cast<sockaddr*>(&address), sizeof(address)), 0);
    const std::unique_ptr<SSL, decltype(&SSL_free)> ssl(SSL_new(context.get()), &SSL_free);
    SSL_set_fd(ssl.get(), socket);
    SSL_set1_host(ssl.get(), "engine.test");
    std::string answer;
    if (SSL_connect(ssl.get()) == 1 &&
        SSL_write(ssl.get(), request.data(), static_cast<int>(request.size())) > 0) {
      char bytes[4096];
      for (int n = 0; (n = SSL_read(ssl.get(), bytes, sizeof(bytes))) > 0;) answer.append(bytes, n);
    }
    close(socket);
    return answer;
  }

  static std::string Get() {
    return HttpClient::Request("GET", "/v1/models", "", "Connection: close\r\n");
  }
  static bool IsOk(const std::string& answer) {
    return absl::StartsWith(answer, "HTTP/1.1 200 OK\r\n");
  }

  TempDir dir_;
  const CertificatePaths authority_ = MakeAuthority(dir_.path(), "authority");
  const CertificatePaths own_ = MakeCertificate(dir_.path(), "server", authority_);
  const CertificatePaths other_ = MakeAuthority(dir_.path(), "other");
  ServedEngine served_;
  std::unique_ptr<HttpServer> server_;
};

TEST_F(HttpTlsTest, AnswersAndStreams) {
  Start();
  HttpClient silent(server_->port());  // never shakes hands, and holds up nobody
  EXPECT_TRUE(IsOk(Ask(Get(), authority_)));
  EXPECT_EQ(Ask(Get(), other_), "");
  const std::string stream = Ask(
      HttpClient::Request("POST", "/v1/completions", kStream, "Connection: close\r\n"), authority_);
  EXPECT_TRUE(IsOk(stream));
  EXPECT_TRUE(absl::StrContains(stream, "data: [DONE]")) << stream;
  EXPECT_EQ(HttpClient(server_->port()).Get("/health").status, 0);  // in plain text
}

TEST_F(HttpTlsTest, WantsClientsCertificates) {
  Start(/*client_certificates=*/true);
  const CertificatePaths client = MakeCertificate(dir_.path(), "client", authority_);
  const CertificatePaths stranger = MakeCertificate(dir_.path(), "stranger", other_);
  EXPECT_TRUE(IsOk(Ask(Get(), authority_, &client)));
  EXPECT_EQ(Ask(Get(), authority_), "");
  EXPECT_EQ(Ask(Get(), authority_, &stranger), "");
}

TEST_F(HttpTlsTest, CertificatesMayBeReplaced) {
  Start();
  const auto replace = [](const std::string& to, const std::string& from) {
    std::filesystem::copy_file(from, to + ".new");
    std::filesystem::rename(to + ".new", to);
  };
  const CertificatePaths next = MakeCertificate(dir_.path(), "next", other_);
  EXPECT_TRUE(IsOk(Ask(Get(), authority_)));
  replace(own_.certificate, next.certificate);
  EXPECT_TRUE(IsOk(Ask(Get(), authority_)));  // its key has not come yet
  replace(own_.private_key, next.private_key);
  EXPECT_TRUE(IsOk(Ask(Get(), other_)));
  EXPECT_EQ(Ask(Get(), authority_), "");
}

TEST_F(HttpTlsTest, FilesThatWillNotDoEndTheStart) {
  HttpOptions options;
  options.security.tls_cert = own_.certificate;
  options.security.tls_key = other_.private_key;
  const auto server = HttpServer::Start("127.0.0.1:0", options, served_.channel(), {});
  EXPECT_EQ(server.status().code(), absl::StatusCode::kInvalidArgument) << server.status();
}

}  // namespace
}  // namespace polystrate

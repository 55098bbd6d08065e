// A client of HTTP/1.1 on a socket of its own, which can also behave badly: send half a request, be
// slow, hang up.
#pragma once

#include <arpa/inet.h>
#include <gtest/gtest.h>
#include <netinet/in.h>
#include <poll.h>
#include <sys/socket.h>
#include <unistd.h>

#include <algorithm>
#include <map>
#include <string>
#include <utility>
#include <vector>

#include "absl/strings/ascii.h"
#include "absl/strings/match.h"
#include "absl/strings/numbers.h"
#include "absl/strings/str_cat.h"
#include "absl/strings/str_split.h"
#include "engine/json.h"

namespace polystrate {

struct HttpAnswer {
  int status = 0;                              // 0: the connection ended before an answer
  std::map<std::string, std::string> headers;  // by lower-case name
  std::string body;
  bool whole = false;  // the body came to its end

  Json json() const {
    auto parsed = Json::Parse(body, "answer");
    EXPECT_TRUE(parsed.ok()) << parsed.status() << " in " << body;
    return parsed.ok() ? *std::move(parsed) : *Json::Parse("{}", "answer");
  }
  // The error's field, "" for null.
  std::string error(const std::string& field) const {
    const Json document = json();
    const auto error = document.root().GetObject("error");
    EXPECT_TRUE(error.ok()) << body;
    return error.ok() ? error->GetStringOr(field, "").value_or("not a string") : "";
  }
  // Of a stream: the data of its events.
  std::vector<std::string> events() const {
    std::vector<std::string> found;
    for (const absl::string_view event : absl::StrSplit(body, "\n\n", absl::SkipEmpty())) {
      EXPECT_TRUE(absl::StartsWith(event, "data: ")) << event;
      found.emplace_back(event.substr(6));
    }
    return found;
  }
};

class HttpClient {
 public:
  explicit HttpClient(int port) : socket_(socket(AF_INET, SOCK_STREAM | SOCK_CLOEXEC, 0)) {
    sockaddr_in address = {};
    address.sin_family = AF_INET;
    address.sin_port = htons(static_cast<uint16_t>(port));
    address.sin_addr.s_addr = htonl(INADDR_LOOPBACK);
    connected_ = connect(socket_, reinterpret_cast<sockaddr*>(&address), sizeof(address)) == 0;
  }
  ~HttpClient() { HangUp(); }
  HttpClient(const HttpClient&) = delete;
  HttpClient& operator=(const HttpClient&) = delete;

  bool connected() const { return connected_; }
  void HangUp() {
    if (socket_ >= 0) close(socket_);
    socket_ = -1;
  }

  // False when the server has hung up.
  bool Send(const std::string& bytes) {
    size_t sent = 0;
    while (sent < bytes.size()) {
      const ssize_t size = send(socket_, bytes.data() + sent, bytes.size() - sent, MSG_NOSIGNAL);
      if (size <= 0) return false;
      sent += static_cast<size_t>(size);
    }
    return true;
  }

  // Until `mark` has come, the server has hung up or half a minute has passed: all that was read
  // and not yet taken.
  const std::string& ReadUntil(const std::string& mark) {
    while (received_.find(mark) == std::string::npos && Receive()) {
    }
    return received_;
  }

  HttpAnswer ReadAnswer() {
    HttpAnswer answer;
    ReadUntil("\r\n\r\n");
    const size_t end = received_.find("\r\n\r\n");
    if (end == std::string::npos) return answer;
    const std::string head = received_.substr(0, end);
    received_.erase(0, end + 4);
    const std::vector<std::string> lines = absl::StrSplit(head, "\r\n");
    const std::vector<std::string> words = absl::StrSplit(lines[0], ' ');
    EXPECT_TRUE(absl::SimpleAtoi(words.at(1), &answer.status)) << lines[0];
    for (size_t i = 1; i < lines.size(); ++i) {
      const std::pair<std::string, std::string> header =
          absl::StrSplit(lines[i], absl::MaxSplits(": ", 1));
      answer.headers[absl::AsciiStrToLower(header.first)] = header.second;
    }
    ReadBody(&answer);
    return answer;
  }

  static std::string Request(const std::string& method, const std::string& path,
                             const std::string& body, const std::string& headers = "") {
    const std::string length = absl::StrCat("Content-Length: ", body.size(), "\r\n");
    return absl::StrCat(method, " ", path, " HTTP/1.1\r\nHost: localhost\r\n", headers,
                        body.empty() ? "" : "Content-Type: application/json\r\n",
                        body.empty() ? "" : length, "\r\n", body);
  }
  HttpAnswer Get(const std::string& path, const std::string& headers = "") {
    Send(Request("GET", path, "", headers));
    return ReadAnswer();
  }
  HttpAnswer Post(const std::string& path, const std::string& body,
                  const std::string& headers = "") {
    Send(Request("POST", path, body, headers));
    return ReadAnswer();
  }

 private:
  // False: no more comes.
  bool Receive() {
    pollfd poll_fd{.fd = socket_, .events = POLLIN, .revents = 0};
    if (poll(&poll_fd, 1, 30'000) <= 0) return false;
    char bytes[65536];
    const ssize_t size = recv(socket_, bytes, sizeof(bytes), 0);
    if (size <= 0) return false;
    received_.append(bytes, static_cast<size_t>(size));
    return true;
  }
  bool ReceiveAtLeast(size_t size) {
    while (received_.size() < size && Receive()) {
    }
    return received_.size() >= size;
  }
  std::string TakeBytes(size_t size) {
    std::string taken = received_.substr(0, size);
    received_.erase(0, size);
    return taken;
  }

  void ReadBody(HttpAnswer* answer) {
    if (answer->headers.contains("transfer-encoding")) return ReadChunks(answer);
    const auto found = answer->headers.find("content-length");
    size_t length = 0;
    if (found == answer->headers.end() || !absl::SimpleAtoi(found->second, &length)) {
      while (Receive()) {
      }
      answer->body = TakeBytes(received_.size());
      answer->whole = true;
      return;
    }
    answer->whole = ReceiveAtLeast(length);
    answer->body = TakeBytes(length);
  }

  void ReadChunks(HttpAnswer* answer) {
    while (true) {
      ReadUntil("\r\n");
      const size_t end = received_.find("\r\n");
      if (end == std::string::npos) return;
      const size_t size = std::stoul(TakeBytes(end + 2), nullptr, 16);
      if (!ReceiveAtLeast(size + 2)) return;
      answer->body += TakeBytes(size);
      TakeBytes(2);
      answer->whole = size == 0;
      if (answer->whole) return;
    }
  }

  int socket_;
  bool connected_ = false;
  std::string received_;
};

}  // namespace polystrate

// Bytes that are no requests, from the wire: whatever comes, every call ends, and the engine serves
// as before and says nothing of it.

#include <arpa/inet.h>
#include <grpcpp/generic/generic_stub.h>
#include <gtest/gtest.h>
#include <netinet/in.h>
#include <sys/socket.h>
#include <unistd.h>

#include <future>
#include <random>
#include <string>
#include <vector>

#include "kernels/core/check.h"
#include "tests/e2e/served_ranks.h"
#include "tests/testing/full_length.h"
#include "tests/testing/mutate.h"

namespace polystrate {
namespace {

// The call's end, however it ends.
grpc::StatusCode CallWithBytes(grpc::GenericStub& stub, const std::string& method,
                               const std::string& bytes) {
  const grpc::Slice slice(bytes);
  const grpc::ByteBuffer request(&slice, 1);
  grpc::ByteBuffer response;
  grpc::ClientContext context;
  // Some are requests after all, and may be long ones.
  context.set_deadline(std::chrono::system_clock::now() + std::chrono::seconds(1));
  std::promise<grpc::StatusCode> code;
  stub.UnaryCall(&context, method, grpc::StubOptions(), &request, &response,
                 [&code](const grpc::Status& status) { code.set_value(status.error_code()); });
  return code.get_future().get();
}

TEST(Malformed, RequestsEndWithAStatusAndDisturbNoOne) {
  ServedRanks engine;
  const Answer before = Ask(engine.inference(), GreedyRequest(8));
  ASSERT_EQ(before.ids.size(), 8u);
  pb::GenerateRequest generate = GreedyRequest(3);
  generate.set_request_id("mutant");
  generate.mutable_stopping()->add_conditions()->set_stop_text("\xc3\xa9");
  generate.mutable_response()->mutable_prompt_candidates()->set_top_n(3);
  pb::AbortRequest abort;
  abort.set_request_id("nobody");
  pb::HealthRequest health;
  health.set_model("demo");
  const std::pair<std::string, std::string> calls[] = {
      {"/openengine.v1.Inference/Generate", generate.SerializeAsString()},
      {"/openengine.v1.Control/Abort", abort.SerializeAsString()},
      {"/openengine.v1.Control/Health", health.SerializeAsString()},
      {"/openengine.v1.Inference/NoSuchMethod", generate.SerializeAsString()}};
  grpc::GenericStub stub(engine.channel());
  std::mt19937 random(20261121);
  int refused = 0;
  const int rounds = Length(/*fast=*/400, /*full=*/20000);
  for (int round = 0; round < rounds; ++round) {
    const auto& [method, bytes] = calls[round % 4];
    refused += CallWithBytes(stub, method, Mutate(bytes, &random)) != grpc::StatusCode::OK;
  }
  EXPECT_GT(refused, rounds / 3);
  EXPECT_LT(refused, rounds);
  EXPECT_TRUE(engine.BecomesIdle());
  EXPECT_EQ(Ask(engine.inference(), GreedyRequest(8)).ids, before.ids);
  EXPECT_EQ(engine.mpirun().Err().find("UTF-8"), std::string::npos) << engine.mpirun().Err();
}

// A connection that speaks no HTTP/2, closed without waiting.
void SendBytes(const std::string& address, const std::string& bytes) {
  sockaddr_in to{};
  to.sin_family = AF_INET;
  to.sin_addr.s_addr = htonl(INADDR_LOOPBACK);
  to.sin_port = htons(static_cast<uint16_t>(std::stoi(address.substr(address.find(':') + 1))));
  const int fd = socket(AF_INET, SOCK_STREAM, 0);
  CHECK_GE(fd, 0);
  if (connect(fd, reinterpret_cast<const sockaddr*>(&to), sizeof(to)) == 0) {
    send(fd, bytes.data(), bytes.size(), MSG_NOSIGNAL);
  }
  close(fd);
}

TEST(Malformed, ConnectionsDisturbNoOne) {
  ServedRanks engine;
  const Answer before = Ask(engine.inference(), GreedyRequest(8));
  ASSERT_EQ(before.ids.size(), 8u);
  const std::string preface = "PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n";
  std::mt19937 random(20261121);
  for (int round = 0; round < Length(/*fast=*/200, /*full=*/5000); ++round) {
    std::string bytes(1 + random() % 3000, '\0');
    for (char& byte : bytes) byte = static_cast<char>(random());
    SendBytes(engine.address(), round % 2 == 0 ? bytes : preface + bytes);
  }
  EXPECT_TRUE(engine.Serving());
  EXPECT_EQ(Ask(engine.inference(), GreedyRequest(8)).ids, before.ids);
}

}  // namespace
}  // namespace polystrate

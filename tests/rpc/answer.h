// What tests ask of an engine's Generate, and what comes back.
#pragma once

#include <memory>
#include <string>
#include <vector>

#include "grpcpp/grpcpp.h"
#include "openengine.grpc.pb.h"

namespace polystrate {

namespace pb = openengine::v1;

// A connection of its own. `window` bounds the bytes that a stream's reader has not read yet.
inline std::shared_ptr<grpc::Channel> ConnectTo(const std::string& address, int window = 65536) {
  grpc::ChannelArguments arguments;
  arguments.SetInt(GRPC_ARG_HTTP2_BDP_PROBE, 0);  // would let the window grow
  arguments.SetInt(GRPC_ARG_HTTP2_STREAM_LOOKAHEAD_BYTES, window);
  arguments.SetMaxReceiveMessageSize(64 << 20);
  arguments.SetInt(GRPC_ARG_ENABLE_HTTP_PROXY, 0);
  arguments.SetInt(GRPC_ARG_USE_LOCAL_SUBCHANNEL_POOL, 1);
  return grpc::CreateCustomChannel(address, grpc::InsecureChannelCredentials(), arguments);
}

// A whole call, read to its end.
struct Answer {
  std::vector<pb::GenerateResponse> events;
  grpc::Status status;
  std::vector<uint32_t> ids;
  std::string text;
  std::string echoed_request_id;  // from the initial metadata

  const pb::GenerateResponse& last() const { return events.back(); }
};

inline void ReadToEnd(grpc::ClientContext* context,
                      grpc::ClientReaderInterface<pb::GenerateResponse>* stream, Answer* answer) {
  pb::GenerateResponse event;
  while (stream->Read(&event)) {
    for (const pb::TokenInfo& token : event.token().tokens()) {
      answer->ids.push_back(token.token_id());
    }
    answer->text += event.token().text();
    answer->events.push_back(event);
  }
  answer->status = stream->Finish();
  const auto& metadata = context->GetServerInitialMetadata();
  if (const auto found = metadata.find("openengine-request-id"); found != metadata.end()) {
    answer->echoed_request_id = std::string(found->second.data(), found->second.size());
  }
}

inline Answer Ask(pb::Inference::Stub& stub, const pb::GenerateRequest& request) {
  grpc::ClientContext context;
  Answer answer;
  const auto stream = stub.Generate(&context, request);
  ReadToEnd(&context, stream.get(), &answer);
  return answer;
}

// Greedy, so that its tokens are known; ends at max_tokens alone.
inline pb::GenerateRequest GreedyRequest(uint32_t max_tokens) {
  pb::GenerateRequest request;
  for (const uint32_t id : {11u, 7u, 301u}) request.mutable_token_ids()->add_ids(id);
  request.mutable_sampling()->set_temperature(0.0);
  request.mutable_stopping()->set_max_tokens(max_tokens);
  request.mutable_stopping()->set_ignore_eos(true);
  return request;
}

}  // namespace polystrate

// Requests of every kind, whose answers are known: greedy or with a seed.
#pragma once

#include <cstdint>
#include <vector>

#include "openengine.grpc.pb.h"
#include "tests/rpc/answer.h"

namespace polystrate {

inline pb::GenerateRequest SeededRequest(uint32_t max_tokens, uint64_t seed) {
  pb::GenerateRequest request = GreedyRequest(max_tokens);
  request.mutable_sampling()->set_temperature(1.0);
  request.mutable_sampling()->set_seed(seed);
  return request;
}

// For the served_ranks.h model. Up to `longest` tokens of output each.
inline std::vector<pb::GenerateRequest> FaultRequests(uint32_t longest) {
  std::vector<pb::GenerateRequest> requests;
  requests.push_back(GreedyRequest(longest));

  requests.push_back(SeededRequest(longest * 3 / 4, 1));
  requests.back().mutable_sampling()->set_top_p(0.9);
  requests.back().mutable_sampling()->set_top_k(40);

  requests.push_back(SeededRequest(longest / 2, 2));
  pb::SamplingParams& penalties = *requests.back().mutable_sampling();
  penalties.set_frequency_penalty(0.4);
  penalties.set_presence_penalty(0.3);
  penalties.set_repetition_penalty(1.2);

  requests.push_back(GreedyRequest(longest));
  requests.back().set_prompt("One day a little fox went into the forest and");
  requests.back().mutable_sampling()->set_repetition_penalty(1.3);

  // Texts of which the output has beginnings, which are held back; the first comes, over two
  // tokens.
  requests.push_back(SeededRequest(longest, 3));
  for (const char* text : {"lifeio", " other other", "! was not"}) {
    requests.back().mutable_stopping()->add_conditions()->set_stop_text(text);
  }

  requests.push_back(SeededRequest(longest / 2, 4));
  requests.back().mutable_sampling()->set_num_sequences(2);

  requests.push_back(SeededRequest(longest, 5));
  requests.back().mutable_stopping()->set_min_tokens(longest / 2);
  for (uint32_t id = 900; id < 924; ++id) {
    requests.back().mutable_stopping()->add_conditions()->set_stop_token_id(id);
  }

  requests.push_back(SeededRequest(longest / 4, 6));
  for (uint32_t i = 0; i < 500; ++i) requests.back().mutable_token_ids()->add_ids(1 + i * 7 % 1000);
  requests.back().mutable_response()->set_return_output_logprobs(true);
  return requests;
}

}  // namespace polystrate

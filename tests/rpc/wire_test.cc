// The bytes that other people's clients send and expect: hand-written, so that a slip in a field's
// number or type is seen. (A field's key is number * 8 + wire type; types: 0 varint, 1 eight bytes,
// 2 length and bytes.)

#include <gtest/gtest.h>

#include <map>
#include <string>

#include "openengine.grpc.pb.h"

namespace polystrate {
namespace {

namespace pb = openengine::v1;

template <size_t n>
std::string Bytes(const unsigned char (&bytes)[n]) {
  return std::string(reinterpret_cast<const char*>(bytes), n);
}

TEST(WireTest, GenerateRequest) {
  pb::GenerateRequest request;
  request.set_request_id("r");
  request.set_model("m");
  request.mutable_token_ids()->add_ids(1);
  request.mutable_token_ids()->add_ids(300);
  request.mutable_sampling()->set_temperature(0.0);  // set, though it is zero
  request.mutable_sampling()->set_top_p(1.0);
  request.mutable_sampling()->set_top_k(-1);
  request.mutable_sampling()->set_seed(5);
  request.mutable_stopping()->set_max_tokens(16);
  request.mutable_stopping()->add_conditions()->set_stop_token_id(2);
  request.mutable_stopping()->set_ignore_eos(true);
  request.mutable_response()->set_return_prompt_logprobs(true);
  request.mutable_response()->set_return_output_logprobs(true);
  request.mutable_kv()->set_cache_salt("s");
  request.set_lora_name("l");
  EXPECT_EQ(request.SerializeAsString(),
            Bytes({0x0a, 1,    'r',                           // request_id = 1
                   0x12, 1,    'm',                           // model = 2
                   0x22, 5,    0x0a, 3,    1,    0xac, 0x02,  // token_ids = 4 { ids = 1, packed }
                   0x2a, 31,                                  // sampling = 5
                   0x09, 0,    0,    0,    0,    0,    0,    0,    0,     // temperature = 1
                   0x11, 0,    0,    0,    0,    0,    0,    0xf0, 0x3f,  // top_p = 2
                   0x18, 0xff, 0xff, 0xff, 0xff, 0xff,                    // top_k = 3
                   0xff, 0xff, 0xff, 0xff, 0x01,                          //
                   0x40, 5,                                               // seed = 8
                   0x32, 8,    0x08, 16,             // stopping = 6 { max_tokens = 1
                   0x1a, 2,    0x10, 2,              //   conditions = 3 { stop_token_id = 2 }
                   0x20, 1,                          //   ignore_eos = 4 }
                   0x3a, 4,    0x08, 1,    0x18, 1,  // response = 7 { 1, 3 }
                   0x42, 3,    0x1a, 1,    's',      // kv = 8 { cache_salt = 3 }
                   0x5a, 1,    'l'}));               // lora_name = 11
}

TEST(WireTest, PromptTextAndUnsupportedFields) {
  pb::GenerateRequest request;
  request.set_prompt("p");
  request.mutable_sampling()->set_num_sequences(1);
  request.mutable_stopping()->set_min_tokens(1);
  request.mutable_stopping()->add_conditions()->set_stop_text("x");
  request.mutable_stopping()->set_include_stop_in_output(true);
  request.mutable_response()->mutable_output_candidates()->set_top_n(3);
  request.mutable_guided()->set_regex("a");
  EXPECT_EQ(request.SerializeAsString(),
            Bytes({0x1a, 1, 'p',               // prompt = 3
                   0x2a, 2, 0x48, 1,           // sampling = 5 { num_sequences = 9 }
                   0x32, 9, 0x10, 1,           // stopping = 6 { min_tokens = 2
                   0x1a, 3, 0x0a, 1, 'x',      //   conditions = 3 { stop_text = 1 }
                   0x28, 1,                    //   include_stop_in_output = 5 }
                   0x3a, 4, 0x22, 2, 0x08, 3,  // response = 7 { 4 { top_n = 1 } }
                   0x4a, 3, 0x12, 1, 'a'}));   // guided = 9 { regex = 2 }
}

TEST(WireTest, TokenOutput) {
  pb::GenerateResponse response;
  response.set_request_id("r");
  response.mutable_token()->set_output_index(0);  // set, though it is zero
  pb::TokenInfo& token = *response.mutable_token()->add_tokens();
  token.set_token_id(7);
  token.set_token("t");
  token.set_logprob(-0.5);
  response.mutable_token()->set_text("t");
  EXPECT_EQ(response.SerializeAsString(),
            Bytes({0x0a, 1,  'r',                    // request_id = 1
                   0x1a, 21, 0x08, 0,                // token = 3 { output_index = 1
                   0x12, 14, 0x08, 7, 0x12, 1, 't',  //   tokens = 2 { token_id = 1, token = 2
                   0x19, 0,  0,    0, 0,    0, 0,   0xe0, 0xbf,  //     logprob = 3 }
                   0x1a, 1,  't'}));                             //   text = 3 }
}

TEST(WireTest, LastEvents) {
  pb::GenerateResponse response;
  response.mutable_finished()->set_output_index(0);
  response.mutable_finished()->set_reason(pb::FINISH_REASON_STOP);
  response.mutable_finished()->mutable_stop_match()->set_eos_token_id(9);
  response.mutable_usage()->set_prompt_tokens(3);
  response.mutable_usage()->set_completion_tokens(4);
  response.mutable_usage()->set_total_tokens(7);
  EXPECT_EQ(response.SerializeAsString(),
            Bytes({0x2a, 8, 0x08, 0, 0x10, 1,  // finished = 5 { 1, reason = 2
                   0x22, 2, 0x18, 9,           //   stop_match = 4 { eos_token_id = 3 } }
                   0x52, 6, 0x08, 3, 0x10, 4, 0x18, 7}));  // usage = 10

  response.Clear();
  response.mutable_error()->set_code(pb::ERROR_CODE_INTERNAL);
  response.mutable_error()->set_message("e");
  response.mutable_error()->set_retryable(true);
  EXPECT_EQ(response.SerializeAsString(),
            Bytes({0x32, 7, 0x08, 12, 0x12, 1, 'e', 0x18, 1}));  // error = 6

  response.Clear();
  response.mutable_prompt()->add_tokens()->set_token_id(1);
  EXPECT_EQ(response.SerializeAsString(), Bytes({0x12, 4, 0x0a, 2, 0x08, 1}));  // prompt = 2
}

TEST(WireTest, Control) {
  pb::AbortRequest abort;
  abort.set_request_id("r");
  EXPECT_EQ(abort.SerializeAsString(), Bytes({0x0a, 1, 'r'}));
  abort.mutable_all_requests();
  EXPECT_EQ(abort.SerializeAsString(), Bytes({0x1a, 0}));

  pb::HealthResponse health;
  health.set_state(pb::HEALTH_STATE_DRAINING);
  EXPECT_EQ(health.SerializeAsString(), Bytes({0x08, 4}));

  pb::LoadInfo load;
  load.set_running_requests(0);
  load.set_used_kv_blocks(2);
  load.add_ranks()->set_data_parallel_rank(0);
  EXPECT_EQ(load.SerializeAsString(), Bytes({0x18, 0, 0x30, 2, 0xa2, 0x01, 2, 0x08, 0}));

  pb::ServerInfo server;
  server.set_engine_name("n");
  server.mutable_parallelism()->set_pipeline_parallel_size(2);
  server.set_schema_revision(1);
  server.mutable_capacity()->set_kv_block_size(16);
  EXPECT_EQ(server.SerializeAsString(),
            Bytes({0x0a, 1, 'n', 0x32, 2, 0x10, 2, 0x40, 1, 0x5a, 2, 0x08, 16}));

  pb::ModelInfo model;
  model.set_model_id("m");
  model.set_max_context_length(9);
  model.set_supports_text_input(true);
  EXPECT_EQ(model.SerializeAsString(), Bytes({0x0a, 1, 'm', 0x20, 9, 0xa0, 0x01, 1}));
}

// Numbers of all fields of the messages above and of those beside them, as the public schema has
// them.
TEST(WireTest, FieldNumbers) {
  const std::map<std::string, std::string> expected = {
      {"GenerateRequest",
       "request_id=1 model=2 prompt=3 token_ids=4 sampling=5 stopping=6 response=7 kv=8 guided=9 "
       "media=10 lora_name=11 extra=12"},
      {"SamplingParams",
       "temperature=1 top_p=2 top_k=3 min_p=4 frequency_penalty=5 presence_penalty=6 "
       "repetition_penalty=7 seed=8 num_sequences=9"},
      {"StoppingOptions",
       "max_tokens=1 min_tokens=2 conditions=3 ignore_eos=4 include_stop_in_output=5"},
      {"ResponseOptions",
       "return_prompt_logprobs=1 prompt_candidates=2 return_output_logprobs=3 output_candidates=4 "
       "prompt_logprob_start=5"},
      {"CandidateTokenSelection", "top_n=1 token_ids=2 all=3"},
      {"KvOptions", "session=1 bypass_prefix_cache=2 cache_salt=3"},
      {"GuidedDecoding",
       "json_schema=1 regex=2 ebnf_grammar=3 structural_tag=4 choice=5 json_object=6 backend=7"},
      {"GenerateResponse",
       "request_id=1 prompt=2 token=3 prefill_ready=4 finished=5 error=6 usage=10"},
      {"TokenInfo", "token_id=1 token=2 logprob=3 rank=4 candidates=5"},
      {"GenerationFinished", "output_index=1 reason=2 message=3 stop_match=4"},
      {"StopMatch", "stop_token_id=1 stop_text=2 eos_token_id=3"},
      {"Usage",
       "prompt_tokens=1 completion_tokens=2 total_tokens=3 cached_prompt_tokens=4 "
       "reasoning_tokens=5"},
      {"EngineError", "code=1 message=2 retryable=3"},
      {"HealthRequest", "include_inference_probe=1 model=2 role=3"},
      {"AbortRequest", "request_id=1 kv_session=2 all_requests=3"},
      {"ServerInfo",
       "engine_name=1 engine_version=2 engine_role=3 instance_id=4 supported_models=5 "
       "parallelism=6 kv_connector=7 schema_revision=8 minimum_client_revision=9 "
       "schema_release=10 capacity=11 extra=12"},
      {"ParallelismInfo",
       "tensor_parallel_size=1 pipeline_parallel_size=2 data_parallel_size=3 "
       "data_parallel_rank=4 data_parallel_start_rank=5 decode_context_parallel_size=6"},
      {"DeploymentCapacity",
       "kv_block_size=1 total_kv_blocks=2 max_running_requests=3 max_batched_tokens=4 max_loras=5"},
      {"LoadInfo",
       "instance_id=1 timestamp_unix_nanos=2 running_requests=3 queued_requests=4 "
       "active_kv_sessions=5 used_kv_blocks=6 total_kv_blocks=7 running_tokens=8 "
       "waiting_tokens=9 prefill_batch_size=10 decode_batch_size=11 ranks=20 attributes=30"},
      {"ModelInfo",
       "model_id=1 served_model_name=2 served_model_aliases=3 max_context_length=4 "
       "max_output_tokens=5 tokenizer_modes=10 supports_text_input=20 "
       "supports_token_ids_input=21 generation=22 supports_lora=23 supports_multimodal=24 "
       "reasoning_parser=25 tool_call_parser=26 extra=28"},
  };
  for (const auto& [message, fields] : expected) {
    const google::protobuf::Descriptor* descriptor =
        google::protobuf::DescriptorPool::generated_pool()->FindMessageTypeByName("openengine.v1." +
                                                                                  message);
    ASSERT_NE(descriptor, nullptr) << message;
    std::string actual;
    for (int i = 0; i < descriptor->field_count(); ++i) {
      actual += (i == 0 ? "" : " ") + descriptor->field(i)->name() + "=" +
                std::to_string(descriptor->field(i)->number());
    }
    EXPECT_EQ(actual, fields) << message;
  }
}

}  // namespace
}  // namespace polystrate

#include "rpc/request_extra.h"

#include <limits>
#include <string>

#include "absl/strings/str_cat.h"
#include "kernels/core/status.h"

namespace polystrate {
namespace {

using google::protobuf::ListValue;
using google::protobuf::Struct;
using google::protobuf::Value;

constexpr char kOutputs[] = "outputs";
constexpr char kTokenIds[] = "token_ids";
constexpr char kEnded[] = "ended";
constexpr size_t kMaxKeyBytes = 64;  // in a message

std::string Quoted(const std::string& key) {
  return absl::StrCat("\"", key.substr(0, kMaxKeyBytes), "\"");
}

std::string Named(const char* key) { return absl::StrCat("extra.", Quoted(key)); }

std::string KindOf(const Value& value) {
  switch (value.kind_case()) {
    case Value::kNullValue:
      return "null";
    case Value::kNumberValue:
      return absl::StrCat("the number ", value.number_value());
    case Value::kStringValue:
      return "a string";
    case Value::kBoolValue:
      return value.bool_value() ? "true" : "false";
    case Value::kStructValue:
      return "an object";
    case Value::kListValue:
      return "a list";
    case Value::KIND_NOT_SET:
      break;
  }
  return "empty";
}

absl::Status Expected(const std::string& where, const Value& value, const char* expected) {
  return absl::InvalidArgumentError(
      absl::StrCat(where, " is ", KindOf(value), "; it must be ", expected));
}

absl::StatusOr<bool> ReadBool(const std::string& where, const Value& value) {
  if (value.kind_case() == Value::kBoolValue) return value.bool_value();
  return Expected(where, value, "true or false");
}

// Whether it is in the vocabulary is the engine's to say.
absl::StatusOr<int32_t> ReadTokenId(const Value& value) {
  constexpr double kMost = std::numeric_limits<int32_t>::max();
  const double number = value.number_value();              // 0 when it is none
  const bool in_range = number >= 0.0 && number <= kMost;  // a NaN is not
  if (value.kind_case() == Value::kNumberValue && in_range) {
    const auto id = static_cast<int32_t>(number);
    if (id == number) return id;
  }
  return Expected("", value, "a token id, a whole number of at least 0");
}

absl::StatusOr<std::vector<int32_t>> ReadTokenIds(const std::string& where, const Value& value) {
  if (value.kind_case() != Value::kListValue) return Expected(where, value, "a list of token ids");
  std::vector<int32_t> ids;
  ids.reserve(value.list_value().values_size());
  for (const Value& element : value.list_value().values()) {
    const absl::StatusOr<int32_t> id = ReadTokenId(element);
    if (!id.ok()) {
      return absl::InvalidArgumentError(
          absl::StrCat(where, "[", ids.size(), "]", id.status().message()));
    }
    ids.push_back(*id);
  }
  return ids;
}

absl::StatusOr<ResumedOutput> ReadOutput(const std::string& where, const Value& value) {
  if (value.kind_case() != Value::kStructValue) {
    return Expected(where, value, "an object with \"token_ids\" and \"ended\"");
  }
  ResumedOutput output;
  for (const auto& [key, field] : value.struct_value().fields()) {
    const std::string field_where = absl::StrCat(where, ".", key.substr(0, kMaxKeyBytes));
    if (key == kTokenIds) {
      ASSIGN_OR_RETURN(output.tokens, ReadTokenIds(field_where, field));
    } else if (key == kEnded) {
      ASSIGN_OR_RETURN(output.ended, ReadBool(field_where, field));
    } else {
      return absl::UnimplementedError(absl::StrCat(field_where, " is not supported"));
    }
  }
  return output;
}

absl::StatusOr<std::vector<ResumedOutput>> ReadResume(const Value& value) {
  const std::string where = Named(kResumeKey);
  const auto& fields = value.struct_value().fields();  // none when it is no object
  const auto found = fields.find(kOutputs);
  if (found == fields.end() || found->second.kind_case() != Value::kListValue) {
    return Expected(where, value, "an object with \"outputs\", a list of one for each output");
  }
  if (fields.size() > 1) {
    return absl::UnimplementedError(
        absl::StrCat(where, " has more than \"outputs\", which is not supported"));
  }
  std::vector<ResumedOutput> outputs;
  for (const Value& element : found->second.list_value().values()) {
    const std::string element_where = absl::StrCat(where, ".outputs[", outputs.size(), "]");
    ASSIGN_OR_RETURN(outputs.emplace_back(), ReadOutput(element_where, element));
  }
  if (!outputs.empty()) return outputs;
  return absl::InvalidArgumentError(
      absl::StrCat(where, ".outputs is empty; it must have one for each output"));
}

}  // namespace

absl::StatusOr<RequestExtra> ReadExtra(const Struct& extra) {
  RequestExtra read;
  for (const auto& [key, value] : extra.fields()) {
    if (key == kResumeKey) {
      ASSIGN_OR_RETURN(read.resumed, ReadResume(value));
    } else if (key == kAddSpecialTokensKey) {
      ASSIGN_OR_RETURN(read.add_special_tokens, ReadBool(Named(kAddSpecialTokensKey), value));
    } else {
      return absl::UnimplementedError(absl::StrCat("extra.", Quoted(key), " is not supported"));
    }
  }
  return read;
}

void SetResume(const std::vector<ResumedOutput>& outputs,
               openengine::v1::GenerateRequest* request) {
  if (outputs.empty()) {
    request->mutable_extra()->mutable_fields()->erase(kResumeKey);
    return;
  }
  Value& value = (*request->mutable_extra()->mutable_fields())[kResumeKey];
  value.Clear();
  auto& fields = *value.mutable_struct_value()->mutable_fields();
  ListValue& list = *fields[kOutputs].mutable_list_value();
  for (const ResumedOutput& output : outputs) {
    auto& told = *list.add_values()->mutable_struct_value()->mutable_fields();
    ListValue& ids = *told[kTokenIds].mutable_list_value();
    ids.mutable_values()->Reserve(static_cast<int>(output.tokens.size()));
    for (const int32_t id : output.tokens) ids.add_values()->set_number_value(id);
    told[kEnded].set_bool_value(output.ended);
  }
}

}  // namespace polystrate

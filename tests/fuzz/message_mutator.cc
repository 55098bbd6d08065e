#include "tests/fuzz/message_mutator.h"

#include <google/protobuf/descriptor.h>

#include <array>
#include <limits>
#include <string>

#include "tests/fuzz/json_mutator.h"

namespace polystrate {
namespace {

using google::protobuf::FieldDescriptor;
using google::protobuf::Message;
using google::protobuf::Reflection;

constexpr std::array kNumbers = {0.0,
                                 1.0,
                                 -1.0,
                                 2.0,
                                 3.0,
                                 0.5,
                                 2.001,
                                 -2.001,
                                 1e-6,
                                 20.0,
                                 21.0,
                                 128.0,
                                 255.0,
                                 16384.0,
                                 16385.0,
                                 65536.0,
                                 1e10,
                                 1e300,
                                 -1e300,
                                 1e-320,
                                 -0.0,
                                 std::numeric_limits<double>::quiet_NaN(),
                                 std::numeric_limits<double>::infinity()};
constexpr std::array kIntegers = {int64_t{0},
                                  int64_t{1},
                                  int64_t{2},
                                  int64_t{-1},
                                  int64_t{20},
                                  int64_t{21},
                                  int64_t{128},
                                  int64_t{129},
                                  int64_t{16384},
                                  int64_t{65536},
                                  int64_t{1} << 31,
                                  (int64_t{1} << 31) - 1,
                                  (int64_t{1} << 32) - 1,
                                  std::numeric_limits<int64_t>::max()};
const std::array<std::string, 6> kTexts = {"",    "the", "\n", "\xc3\xa9", std::string(300, 'a'),
                                           "tiny"};

// Sets a field that is no message; appends to one that is repeated.
void SetScalar(Message* message, const FieldDescriptor* field, std::minstd_rand* random) {
  const Reflection& reflection = *message->GetReflection();
  const double number = kNumbers[(*random)() % kNumbers.size()];
  // Small ones are ids of tokens.
  const int64_t integer = (*random)() % 2 == 0 ? static_cast<int64_t>((*random)() % 400)
                                               : kIntegers[(*random)() % kIntegers.size()];
  const auto set = [&](auto set_one, auto add_one, auto value) {
    if (field->is_repeated()) {
      (reflection.*add_one)(message, field, value);
    } else {
      (reflection.*set_one)(message, field, value);
    }
  };
  switch (field->cpp_type()) {
    case FieldDescriptor::CPPTYPE_DOUBLE:
      return set(&Reflection::SetDouble, &Reflection::AddDouble, number);
    case FieldDescriptor::CPPTYPE_INT32:
      return set(&Reflection::SetInt32, &Reflection::AddInt32, static_cast<int32_t>(integer));
    case FieldDescriptor::CPPTYPE_UINT32:
      return set(&Reflection::SetUInt32, &Reflection::AddUInt32, static_cast<uint32_t>(integer));
    case FieldDescriptor::CPPTYPE_UINT64:
      return set(&Reflection::SetUInt64, &Reflection::AddUInt64, static_cast<uint64_t>(integer));
    case FieldDescriptor::CPPTYPE_BOOL:
      return set(&Reflection::SetBool, &Reflection::AddBool, integer % 2 == 1);
    case FieldDescriptor::CPPTYPE_ENUM:
      return set(&Reflection::SetEnumValue, &Reflection::AddEnumValue, static_cast<int>(integer));
    case FieldDescriptor::CPPTYPE_STRING: {
      std::string text = kTexts[(*random)() % kTexts.size()];
      if (!field->is_repeated() && (*random)() % 2 == 0) {
        text = reflection.GetString(*message, field);
        text = MutateBytes(text, text.size() + 8);
      }
      return set(&Reflection::SetString, &Reflection::AddString, text);
    }
    default:
      return;  // no such field in any request
  }
}

}  // namespace

void MutateMessage(Message* message, std::minstd_rand* random) {
  const google::protobuf::Descriptor& type = *message->GetDescriptor();
  const Reflection& reflection = *message->GetReflection();
  if (type.field_count() == 0) return;
  const FieldDescriptor* field = type.field(static_cast<int>((*random)() % type.field_count()));
  if ((*random)() % 6 == 0) {
    reflection.ClearField(message, field);
  } else if (field->cpp_type() != FieldDescriptor::CPPTYPE_MESSAGE) {
    SetScalar(message, field, random);
  } else if (!field->is_repeated()) {
    MutateMessage(reflection.MutableMessage(message, field), random);
  } else {
    const int size = reflection.FieldSize(*message, field);
    const bool old = size > 0 && (*random)() % 2 == 0;
    MutateMessage(old ? reflection.MutableRepeatedMessage(message, field, size - 1)
                      : reflection.AddMessage(message, field),
                  random);
  }
}

}  // namespace polystrate

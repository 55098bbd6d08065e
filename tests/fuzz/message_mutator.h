// Edits of protobuf messages that keep them messages.
#pragma once

#include <google/protobuf/message.h>

#include <random>

namespace polystrate {

// One edit: a field anywhere below `message` set to a value that readers get wrong, added or taken
// away.
void MutateMessage(google::protobuf::Message* message, std::minstd_rand* random);

}  // namespace polystrate

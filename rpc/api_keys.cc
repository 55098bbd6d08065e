#include "rpc/api_keys.h"

#include <openssl/crypto.h>
#include <openssl/sha.h>

#include <algorithm>
#include <cstdio>

#include "absl/strings/ascii.h"
#include "absl/strings/str_cat.h"
#include "absl/strings/str_split.h"
#include "kernels/core/status.h"

namespace polystrate {
namespace {

constexpr size_t kMinLength = 16;
constexpr size_t kMaxLength = 512;

bool IsKey(absl::string_view text) {
  return text.size() >= kMinLength && text.size() <= kMaxLength &&
         std::all_of(text.begin(), text.end(), absl::ascii_isgraph);
}

}  // namespace

absl::StatusOr<std::vector<std::string>> ReadApiKeys(WatchedFile& file) {
  ASSIGN_OR_RETURN(const std::string text, file.Read());
  std::vector<std::string> keys;
  int number = 0;
  for (absl::string_view line : absl::StrSplit(text, '\n')) {
    ++number;
    line = absl::StripAsciiWhitespace(line);
    if (line.empty() || line.front() == '#') continue;
    if (!IsKey(line)) {
      return absl::InvalidArgumentError(
          absl::StrCat(file.path(), ":", number, ": is no key; a key is ", kMinLength, " to ",
                       kMaxLength, " printable characters without spaces, one a line"));
    }
    keys.emplace_back(line);
  }
  if (!keys.empty()) return keys;
  return absl::InvalidArgumentError(
      absl::StrCat(file.path(), ": holds no key; openssl rand -hex 32 makes one"));
}

absl::StatusOr<std::unique_ptr<ApiKeys>> ApiKeys::Create(const std::string& path) {
  std::unique_ptr<ApiKeys> keys(new ApiKeys(path));
  absl::MutexLock lock(&keys->mutex_);
  RETURN_IF_ERROR(keys->Load());
  return keys;
}

absl::Status ApiKeys::Load() {
  ASSIGN_OR_RETURN(const std::vector<std::string> keys, ReadApiKeys(file_));
  digests_.clear();
  for (const std::string& key : keys) digests_.push_back(DigestOf(key));
  if (file_.readable_by_all()) {
    std::fprintf(stderr, "warning: %s can be read by every user of this machine; chmod 600 it\n",
                 file_.path().c_str());
  }
  return absl::OkStatus();
}

ApiKeys::Digest ApiKeys::DigestOf(absl::string_view key) {
  Digest digest;
  SHA256(reinterpret_cast<const unsigned char*>(key.data()), key.size(), digest.data());
  return digest;
}

bool ApiKeys::Accepts(absl::string_view key) {
  const Digest digest = DigestOf(key);
  absl::MutexLock lock(&mutex_);
  if (file_.Changed()) {
    const absl::Status status = Load();
    std::fprintf(stderr, "serve: %s\n",
                 status.ok() ? absl::StrCat(file_.path(), " is read again: ", digests_.size(),
                                            digests_.size() == 1 ? " key" : " keys")
                                   .c_str()
                             : absl::StrCat(std::string(status.message()),
                                            "; the keys of before stay in force")
                                   .c_str());
  }
  bool found = false;
  for (const Digest& known : digests_) {
    // No early end: how long it takes must not tell which key came close.
    found |= CRYPTO_memcmp(digest.data(), known.data(), known.size()) == 0;
  }
  return found;
}

}  // namespace polystrate

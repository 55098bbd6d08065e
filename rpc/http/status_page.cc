#include "rpc/http/status_page.h"

#include <openssl/sha.h>

#include <array>

#include "absl/strings/escaping.h"
#include "absl/strings/str_cat.h"
#include "kernels/core/check.h"

namespace polystrate {
namespace {

constexpr std::string_view kPage =
#include "status_page.inc"
    ;

// A policy's name of what stands between the only <tag> and its end: 'sha256-...'.
std::string HashOf(absl::string_view tag) {
  const std::string open = absl::StrCat("<", tag, ">");
  const size_t begin = kPage.find(open) + open.size();
  const size_t end = kPage.find(absl::StrCat("</", tag, ">"));
  CHECK(begin < end && end < kPage.size());
  std::array<unsigned char, SHA256_DIGEST_LENGTH> digest;
  SHA256(reinterpret_cast<const unsigned char*>(&kPage[begin]), end - begin, digest.data());
  return absl::StrCat(
      "'sha256-", absl::Base64Escape({reinterpret_cast<const char*>(digest.data()), digest.size()}),
      "'");
}

}  // namespace

std::string_view StatusPage() { return kPage; }

std::string StatusPagePolicy() {
  return absl::StrCat("default-src 'none'; script-src ", HashOf("script"), "; style-src ",
                      HashOf("style"), "; connect-src 'self'; img-src data:; base-uri 'none'; ",
                      "form-action 'none'; frame-ancestors 'none'");
}

}  // namespace polystrate

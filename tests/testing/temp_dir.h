// TempDir: a folder that goes away with the object, and whole-file reading and writing.
#pragma once

#include <string>

#include "absl/strings/string_view.h"

namespace polystrate {

class TempDir {
 public:
  // A new empty folder below $TMPDIR, or /tmp.
  TempDir();
  TempDir(const TempDir&) = delete;
  TempDir& operator=(const TempDir&) = delete;
  ~TempDir();

  const std::string& path() const { return path_; }
  std::string File(const std::string& name) const { return path_ + "/" + name; }

 private:
  std::string path_;
};

// Both CHECK-fail when the file system refuses.
void WriteFile(const std::string& path, absl::string_view bytes);
std::string ReadFile(const std::string& path);

}  // namespace polystrate

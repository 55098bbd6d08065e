// A secured engine as people run it: certificates and keys in files, serve under mpirun, the client
// command. The cases in their variety are tested at library level (tests/rpc/).

#include <gtest/gtest.h>
#include <signal.h>

#include <string>
#include <vector>

#include "absl/strings/match.h"
#include "absl/strings/str_cat.h"
#include "absl/strings/str_split.h"
#include "tests/testing/certificates.h"
#include "tests/testing/process.h"
#include "tests/testing/temp_dir.h"
#include "tests/testing/tiny_model.h"

namespace polystrate {
namespace {

constexpr absl::Duration kTimeout = absl::Seconds(60);
constexpr char kKey[] = "the-first-key-0123456789";
constexpr char kNextKey[] = "the-second-key-0123456789";

class Security : public testing::Test {
 protected:
  Security() : address_(absl::StrCat("127.0.0.1:", FreePort())) {
    TinyModelSpec spec;
    spec.num_kv_heads = 2;
    spec.num_kv_layers = 2;
    spec.reuse_keys = "post_rope";
    WriteTinyModel(dir_.path(), spec);
    WriteFile(keys_, absl::StrCat("# clients\n", kKey, "\n"));
  }

  CommandLine Serve(const CommandLine& more) const {
    CommandLine command = {"serve",  "--model",     dir_.path(), "--tp",      "2", "--listen",
                           address_, "--kv_memory", "4194304",   "--threads", "1"};
    command.insert(command.end(), more.begin(), more.end());
    return Mpirun(2, Polystrate(command));
  }
  CommandResult Client(const CommandLine& more) const {
    CommandLine command = {"client",       "--target", address_,       "--prompt_ids",    "5,6,7",
                           "--max_tokens", "5",        "--ignore_eos", "--ready_timeout", "2"};
    command.insert(command.end(), more.begin(), more.end());
    return RunCommand(Polystrate(command), kTimeout);
  }

  TempDir dir_;
  const std::string address_;
  const std::string keys_ = dir_.File("keys");
  const CertificatePaths authority_ = MakeAuthority(dir_.path(), "authority");
  const CertificatePaths server_ = MakeCertificate(dir_.path(), "server", authority_);
  const CertificatePaths client_ = MakeCertificate(dir_.path(), "client", authority_);
};

// Nothing of what `path` holds but the lines that PEM files have in common.
void ExpectNothingOf(const std::string& path, const std::string& output) {
  for (const absl::string_view line : absl::StrSplit(ReadFile(path), '\n', absl::SkipEmpty())) {
    if (absl::StartsWith(line, "-----") || absl::StartsWith(line, "#")) continue;
    EXPECT_FALSE(absl::StrContains(output, line)) << path << " in " << output;
  }
}

TEST_F(Security, MutualTlsAndKeysFromEndToEnd) {
  Process engine(Serve({"--tls_cert", server_.certificate, "--tls_key", server_.private_key,
                        "--tls_client_ca", authority_.certificate, "--api_key_file", keys_}));
  ASSERT_TRUE(engine.WaitForOutput("SERVING", kTimeout)) << engine.Err();
  const CommandLine trusting = {"--tls_ca", authority_.certificate};
  CommandLine showing = trusting;
  for (const std::string& word : {std::string("--tls_cert"), client_.certificate,
                                  std::string("--tls_key"), client_.private_key}) {
    showing.push_back(word);
  }
  CommandLine keyed = showing;
  keyed.push_back("--api_key_file=" + keys_);

  std::string outputs;
  const auto expect = [&](const CommandLine& flags, int exit_code, const char* says) {
    const CommandResult result = Client(flags);
    EXPECT_EQ(result.exit_code, exit_code) << result.err;
    EXPECT_TRUE(absl::StrContains(result.err, says)) << result.err;
    absl::StrAppend(&outputs, result.out, result.err);
  };
  expect(keyed, 0, "generated 5 tokens");
  expect({}, 1, "does it speak TLS? (--tls_ca)");
  expect(trusting, 1, "does it want a certificate? (--tls_cert)");
  expect(showing, 2, "API key");

  WriteFile(keys_, absl::StrCat(kNextKey, "\n"));
  expect(keyed, 0, "generated 5 tokens");
  WriteFile(dir_.File("old_keys"), absl::StrCat(kKey, "\n"));
  CommandLine old = showing;
  old.push_back("--api_key_file=" + dir_.File("old_keys"));
  expect(old, 2, "API key");

  engine.Signal(SIGUSR1);
  EXPECT_EQ(engine.Wait(kTimeout), 0) << engine.Err();
  EXPECT_TRUE(absl::StrContains(engine.Err(), "drained"));
  absl::StrAppend(&outputs, engine.Out(), engine.Err());
  for (const std::string& secret :
       {keys_, dir_.File("old_keys"), server_.private_key, client_.private_key}) {
    ExpectNothingOf(secret, outputs);
  }
}

TEST_F(Security, AStartThatCannotBeSecureFails) {
  const std::string missing = dir_.File("missing.pem");
  const std::string bad_keys = dir_.File("bad_keys");
  WriteFile(bad_keys, "too-short-a-key");
  struct Case {
    CommandLine flags;
    std::string message;
  };
  const Case cases[] = {
      {{"--tls_cert", server_.certificate}, "--tls_key"},
      {{"--tls_cert", missing, "--tls_key", server_.private_key}, missing},
      {{"--tls_cert", server_.certificate, "--tls_key", client_.private_key},
       client_.private_key + ": is not the key"},
      {{"--api_key_file", bad_keys}, bad_keys + ":1"},
      {{"--max_message_bytes", "5"}, "--max_message_bytes is 5"},
  };
  for (const Case& test : cases) {
    const CommandResult result = RunCommand(Serve(test.flags), kTimeout);
    EXPECT_EQ(result.exit_code, 2) << result.err;
    EXPECT_EQ(result.out, "");
    EXPECT_TRUE(absl::StrContains(result.err, "error: ")) << result.err;
    EXPECT_TRUE(absl::StrContains(result.err, test.message)) << result.err;
    EXPECT_FALSE(absl::StrContains(result.err, "SERVING")) << result.err;
    ExpectNothingOf(bad_keys, result.err);
  }
  EXPECT_TRUE(AllGone(address_, absl::Seconds(10)));
}

}  // namespace
}  // namespace polystrate

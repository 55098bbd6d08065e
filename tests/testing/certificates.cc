#include "tests/testing/certificates.h"

#include "kernels/core/check.h"
#include "tests/testing/process.h"

namespace polystrate {
namespace {

void RunOpenSsl(const CommandLine& arguments) {
  CommandLine command = {"openssl"};
  command.insert(command.end(), arguments.begin(), arguments.end());
  const CommandResult result = RunCommand(command);
  CHECK_EQ(result.exit_code, 0);
}

CertificatePaths MakePair(const std::string& folder, const std::string& name,
                          const CommandLine& more) {
  const std::string stem = folder + "/" + name;
  const CertificatePaths paths = {stem + ".pem", stem + ".key"};
  CommandLine arguments = {"req",
                           "-x509",
                           "-newkey",
                           "ec",
                           "-pkeyopt",
                           "ec_paramgen_curve:prime256v1",
                           "-nodes",
                           "-days",
                           "2",
                           "-subj",
                           "/CN=" + name,
                           "-keyout",
                           paths.private_key,
                           "-out",
                           paths.certificate};
  arguments.insert(arguments.end(), more.begin(), more.end());
  RunOpenSsl(arguments);
  return paths;
}

}  // namespace

CertificatePaths MakeAuthority(const std::string& folder, const std::string& name) {
  return MakePair(folder, name, {});
}

CertificatePaths MakeCertificate(const std::string& folder, const std::string& name,
                                 const CertificatePaths& authority) {
  return MakePair(folder, name,
                  {"-CA", authority.certificate, "-CAkey", authority.private_key, "-addext",
                   "subjectAltName=IP:127.0.0.1,DNS:engine.test"});
}

void EncryptKey(const std::string& private_key, const std::string& path) {
  RunOpenSsl({"pkey", "-in", private_key, "-aes256", "-passout", "pass:secret", "-out", path});
}

}  // namespace polystrate

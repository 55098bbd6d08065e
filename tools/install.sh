#!/usr/bin/env bash
# Installs from Debian 12 what building, running and testing Polystrate needs and is not there yet. Asks
# nothing; a second run changes nothing. Needs root or sudo.
#   tools/install.sh [--clang-tidy]    with what the preset clang-tidy needs besides
set -euo pipefail

packages=(
  ca-certificates cmake ninja-build g++ ccache python3 procps xz-utils clang-format
  libopenmpi-dev openmpi-bin openssh-client
  libgrpc++-dev protobuf-compiler-grpc protobuf-compiler libprotobuf-dev libabsl-dev
  libdnnl-dev ocl-icd-opencl-dev opencl-c-headers  # oneDNN's CMake config asks for OpenCL
  libpcre2-dev libicu-dev libssl-dev openssl prometheus-cpp-dev libcpp-httplib-dev libyaml-cpp-dev
  iproute2  # tests make hosts of network namespaces
  libgtest-dev libbenchmark-dev
  clang-14 libclang-rt-14-dev  # g++ has no libFuzzer
)

case "${1:-}" in
  "") ;;
  --clang-tidy) packages+=(clang clang-tidy libomp-dev) ;;
  *) echo "usage: tools/install.sh [--clang-tidy]" >&2; exit 2 ;;
esac

missing=()
for package in "${packages[@]}"; do
  dpkg-query -W -f='${db:Status-Status}' "$package" 2>/dev/null | grep -qx installed || missing+=("$package")
done
if [ ${#missing[@]} -eq 0 ]; then
  echo "install: everything needed is there"
  exit 0
fi

command -v apt-get >/dev/null || {
  echo "install: this is no Debian system; install the equivalents of: ${missing[*]}" >&2
  exit 2
}
as_root=()
if [ "$(id -u)" -ne 0 ]; then
  command -v sudo >/dev/null || { echo "install: run as root or install sudo" >&2; exit 2; }
  as_root=(sudo)
fi
echo "install: ${missing[*]}"
"${as_root[@]}" apt-get update -q
"${as_root[@]}" env DEBIAN_FRONTEND=noninteractive apt-get install -q -y --no-install-recommends "${missing[@]}"
